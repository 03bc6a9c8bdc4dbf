#include "containers/gguf/read_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "containers/gguf/export_parts.h"

namespace quant::gguf {
namespace {

using Json = nlohmann::ordered_json;

// The fields of config.json that follow from the file's keys.
class ConfigWriter {
 public:
  ConfigWriter(const Header& header, const Architecture& architecture)
      : header_(header),
        metadata_(header.metadata),
        prefix_(std::string(architecture.name) + "."),
        architecture_(architecture) {}

  Json config() {
    json_ = {{"architectures", {architecture_.model_class}}, {"model_type", architecture_.model_type}};
    natural("context_length", "max_position_embeddings");
    natural("embedding_length", "hidden_size");
    natural("feed_forward_length", "intermediate_size");
    natural("block_count", "num_hidden_layers");
    natural("attention.head_count", "num_attention_heads");
    natural("attention.head_count_kv", "num_key_value_heads");
    natural("attention.key_length", "head_dim");
    natural("attention.sliding_window", "sliding_window");
    natural("vocab_size", "vocab_size");
    if (!json_.contains("vocab_size")) {
      if (const TensorEntry* embedding = tensor("token_embd.weight")) json_["vocab_size"] = embedding->rows();
    }
    number("attention.layer_norm_rms_epsilon", "rms_norm_eps");
    number("attention.layer_norm_epsilon", "layer_norm_eps");
    number("rope.freq_base", "rope_theta");
    number("attn_logit_softcapping", "attn_logit_softcapping");
    number("final_logit_softcapping", "final_logit_softcapping");
    if (!json_.contains("rope_theta") && !architecture_.learned_positions) json_["rope_theta"] = 10000.0;
    if (!json_.contains("num_key_value_heads") && json_.contains("num_attention_heads")) {
      json_["num_key_value_heads"] = json_["num_attention_heads"];
    }
    if (architecture_.model_type == "llama" && !json_.contains("sliding_window")) json_["mlp_bias"] = false;
    for (const char* name : {"bos", "eos"}) {
      const auto id = natural_of(find_value(metadata_, fmt::format("tokenizer.ggml.{}_token_id", name)));
      if (id) json_[fmt::format("{}_token_id", name)] = *id;
    }
    add_scaling();
    json_["tie_word_embeddings"] = tensor("output.weight") == nullptr;
    add_family();
    return json_;
  }

  /// Rotary frequencies that the file divides by these numbers: rope_type llama3, if they are such.
  static void add_factors(Json& json, const std::vector<float>& factors) {
    Llama3Rope rope;
    rope.base = json.value("rope_theta", 10000.0);
    rope.factor = static_cast<double>(*std::ranges::max_element(factors));
    for (int power = 5; power <= 20; ++power) {
      rope.context = static_cast<double>(1 << power);
      const std::vector<float> made = llama3_factors(rope, 2 * factors.size());
      const bool same =
          std::ranges::equal(made, factors, [](float a, float b) { return std::fabs(a - b) <= 1e-4F * a; });
      if (!same) continue;
      json["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", rope.factor},
                              {"low_freq_factor", rope.low},
                              {"high_freq_factor", rope.high},
                              {"original_max_position_embeddings", 1 << power}};
      return;
    }
    json["rope_scaling"] = {{"rope_type", "factors of a GGUF file"}};  // nothing that this library computes
  }

 private:
  void natural(const char* key, const char* name) {
    if (const auto value = natural_of(find_value(metadata_, prefix_ + key))) json_[name] = *value;
  }
  // The shortest decimal of the 32-bit number, which is what the model's own file said.
  void number(const char* key, const char* name) {
    const auto value = number_of(find_value(metadata_, prefix_ + key));
    if (value) json_[name] = Json::parse(fmt::format("{}", static_cast<float>(*value)), nullptr, false);
  }
  void add_scaling() {
    const auto type = text_of(find_value(metadata_, prefix_ + "rope.scaling.type"));
    const auto factor = number_of(find_value(metadata_, prefix_ + "rope.scaling.factor"));
    if (!type || *type == "none" || !factor) return;
    json_["rope_scaling"] = {{"rope_type", *type}, {"factor", *factor}};
    const auto original = natural_of(find_value(metadata_, prefix_ + "rope.scaling.original_context_length"));
    if (original) json_["rope_scaling"]["original_max_position_embeddings"] = *original;
  }

  const TensorEntry* tensor(std::string_view name) const {
    const auto found = std::ranges::find(header_.tensors, name, &TensorEntry::name);
    return found == header_.tensors.end() ? nullptr : &*found;
  }

  void add_family() {
    const std::string_view type = architecture_.model_type;
    if (architecture_.experts) add_experts();
    if (type == "gemma2") add_attention_scale(46);
    if (type == "gemma3_text") add_local_layers();
    if (type == "qwen2" || type == "qwen3" || architecture_.name == "qwen2moe" || architecture_.name == "qwen3moe") {
      json_["use_sliding_window"] = false;
    } else if (!json_.contains("sliding_window") && (type == "phi3" || type == "mixtral")) {
      json_["sliding_window"] = nullptr;
    }
    if (type == "stablelm") {
      add_rotary_part("partial_rotary_factor");
      json_["use_qkv_bias"] = tensor("blk.0.attn_q.bias") != nullptr;
      json_["qk_layernorm"] = tensor("blk.0.attn_q_norm.weight") != nullptr;
      json_["use_parallel_residual"] = tensor("blk.0.ffn_norm.weight") == nullptr;  // as llama.cpp decides
    }
    if (type == "gpt_neox") {
      add_rotary_part("rotary_pct");
      rename("rope_theta", "rotary_emb_base");
      json_.erase("num_key_value_heads");
      json_["use_parallel_residual"] = bool_of(find_value(metadata_, prefix_ + "use_parallel_residual")).value_or(true);
    }
    if (type == "gpt2") add_gpt2();
  }

  void rename(const char* from, const char* to) {
    if (!json_.contains(from)) return;
    json_[to] = Json(json_[from]);
    json_.erase(from);
  }

  void add_gpt2() {
    rename("max_position_embeddings", "n_positions");
    rename("hidden_size", "n_embd");
    rename("intermediate_size", "n_inner");
    rename("num_hidden_layers", "n_layer");
    rename("num_attention_heads", "n_head");
    rename("layer_norm_eps", "layer_norm_epsilon");
    json_.erase("num_key_value_heads");
  }

  // The part of each head that turns, from the number of its values.
  void add_rotary_part(const char* name) {
    const auto size = number_of(find_value(metadata_, prefix_ + "rope.dimension_count"));
    const double heads = json_.value("num_attention_heads", 0.0), hidden = json_.value("hidden_size", 0.0);
    if (size && heads > 0 && hidden > 0) json_[name] = *size * heads / hidden;
  }

  void add_experts() {
    const bool qwen = architecture_.model_type != "mixtral";
    natural("expert_count", qwen ? "num_experts" : "num_local_experts");
    natural("expert_used_count", "num_experts_per_tok");
    if (!qwen) return;
    natural("expert_feed_forward_length", "moe_intermediate_size");
    natural("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
    if (const TensorEntry* gate = tensor("blk.0.ffn_gate_exps.weight"); gate != nullptr && gate->sizes.size() == 3) {
      json_["moe_intermediate_size"] = gate->sizes[1];
    }
    if (const TensorEntry* gate = tensor("blk.0.ffn_gate_shexp.weight")) {
      json_["shared_expert_intermediate_size"] = gate->rows();
    }
    json_["norm_topk_prob"] = architecture_.model_type == "qwen3_moe";  // as llama.cpp computes
    json_["decoder_sparse_step"] = 1;
    json_["mlp_only_layers"] = Json::array();
    if (architecture_.model_type == "qwen2_moe") json_["qkv_bias"] = tensor("blk.0.attn_q.bias") != nullptr;
  }

  // Which layers of Gemma 3 have the window, and their rotary base.
  void add_local_layers() {
    add_attention_scale(62);
    json_["rope_local_base_freq"] = 10000.0;
    number("rope.freq_base_swa", "rope_local_base_freq");
    natural("attention.sliding_window_pattern", "sliding_window_pattern");
    if (!json_.contains("sliding_window_pattern")) json_["sliding_window_pattern"] = 6;
    if (!json_.contains("sliding_window")) {
      json_["sliding_window"] = nullptr;
      json_["sliding_window_pattern"] = 1;
    }
    const Value* each = find_value(metadata_, prefix_ + "attention.sliding_window_pattern");
    if (each == nullptr || each->type != ValueType::array || each->element != ValueType::boolean) return;
    json_.erase("sliding_window_pattern");
    json_["layer_types"] = Json::array();
    for (const char sliding : each->bytes) {
      json_["layer_types"].push_back(sliding != 0 ? "sliding_attention" : "full_attention");
    }
  }

  // What llama.cpp does for these families, which files say nothing of; it is another width for so many layers.
  void add_attention_scale(std::uint64_t odd) {
    const std::uint64_t layers = json_.value("num_hidden_layers", std::uint64_t{0});
    const std::uint64_t heads = json_.value("num_attention_heads", std::uint64_t{0});
    const std::uint64_t width = heads == 0 ? 0 : json_.value("hidden_size", std::uint64_t{0}) / heads;
    json_["query_pre_attn_scalar"] = layers == odd ? width : json_.value("head_dim", width);
  }

  const Header& header_;
  const Metadata& metadata_;
  std::string prefix_;
  const Architecture& architecture_;
  Json json_;
};

}  // namespace

Json config_of_file(const Header& header, const Architecture& architecture, const std::vector<float>& rope_factors) {
  Json json = ConfigWriter(header, architecture).config();
  if (!rope_factors.empty()) ConfigWriter::add_factors(json, rope_factors);
  return json;
}

}  // namespace quant::gguf
