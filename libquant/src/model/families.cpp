// Tables of decoder families. Sources: the configuration and modeling files of Transformers 5.
#include "model/family.h"

namespace quant {
namespace {

Family llama() {
  return {.model_type = "llama",
          .defaults = R"({"rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 2048,
                          "tie_word_embeddings": false})"};
}

}  // namespace

std::vector<Family> decoder_families() { return {llama()}; }

std::vector<Family> expert_families() { return {}; }

std::vector<Family> encoder_families() { return {}; }

const std::vector<Family>& families() {
  static const std::vector<Family> all = [] {
    std::vector<Family> list = decoder_families();
    for (const auto& more : {expert_families(), encoder_families()}) list.insert(list.end(), more.begin(), more.end());
    return list;
  }();
  return all;
}

}  // namespace quant
