#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "containers/gguf/export_parts.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

using Json = nlohmann::json;

}  // namespace

ModelFacts::ModelFacts(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  where_ = checkpoint.location().string();
  model_name_ = checkpoint.location().filename().string();
  config_ = Json::parse(config.text.empty() ? "{}" : config.text, nullptr, false);
  architecture_ = find_architecture(config.model_type);
  if (architecture_ == nullptr || !config_.is_object()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{} is of the family '{}', which has no GGUF form here.", where_, config.model_type),
                fmt::format("Families: {}.", architecture_names()), "UnsupportedFamily");
  }
  tied_ = architecture_->always_tied || config.tie_word_embeddings ||
          (architecture_->ties && member("tie_word_embeddings") == nullptr);
}

const Json* ModelFacts::member(const char* key) const {
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

std::uint64_t ModelFacts::natural(const char* key) const {
  const Json* value = member(key);
  if (value == nullptr || !value->is_number_unsigned() || value->get<std::uint64_t>() == 0) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("config.json of {} has no positive whole number '{}'.", where_, key), "", "InvalidConfig");
  }
  return value->get<std::uint64_t>();
}

double ModelFacts::number(const char* key, double otherwise) const {
  const Json* value = member(key);
  return value != nullptr && value->is_number() ? value->get<double>() : otherwise;
}

std::uint64_t ModelFacts::key_heads() const {
  return member("num_key_value_heads") == nullptr ? query_heads() : natural("num_key_value_heads");
}

std::uint64_t ModelFacts::head_size() const {
  if (member("head_dim") != nullptr) return natural("head_dim");
  if (architecture_->model_type == "qwen3") return 128;
  if (architecture_->model_type == "gemma" || architecture_->model_type == "gemma2") return 256;
  return natural("hidden_size") / query_heads();
}

// rope_parameters (Transformers 5), or rope_scaling and rope_theta before.
Json ModelFacts::rope() const {
  Json rope = Json::object();
  if (const Json* old = member("rope_scaling"); old != nullptr && old->is_object()) rope = *old;
  if (const Json* now = member("rope_parameters"); now != nullptr && now->is_object()) rope = *now;
  if (!rope.contains("rope_theta")) rope["rope_theta"] = number("rope_theta", 10000.0);
  if (!rope.contains("rope_type")) rope["rope_type"] = rope.value("type", Json("default"));
  return rope;
}

void ModelFacts::add_rope(Metadata& out, const std::string& prefix) const {
  const Json rope = this->rope();
  const std::string type = rope["rope_type"].is_string() ? rope["rope_type"].get<std::string>() : "";
  if (rope["rope_theta"].is_number()) {
    out.emplace_back(prefix + "rope.freq_base", f32_value(rope["rope_theta"].get<double>()));
  }
  if (type == "default" || type == "llama3") return;
  if ((type != "linear" && type != "yarn") || !rope.contains("factor") || !rope["factor"].is_number()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{} scales rotary positions as '{}', which is not exported.", where_, type),
                "default, linear, yarn and llama3 are.", "UnsupportedRope");
  }
  out.emplace_back(prefix + "rope.scaling.type", text_value(type));
  out.emplace_back(prefix + "rope.scaling.factor", f32_value(rope["factor"].get<double>()));
  if (rope.contains("original_max_position_embeddings") &&
      rope["original_max_position_embeddings"].is_number_unsigned()) {
    out.emplace_back(prefix + "rope.scaling.original_context_length",
                     u32_value(rope["original_max_position_embeddings"].get<std::uint64_t>()));
  }
}

Metadata ModelFacts::metadata() const {
  const std::string prefix = std::string(architecture_->name) + ".";
  Metadata out = {{"general.architecture", text_value(std::string(architecture_->name))},
                  {"general.type", text_value("model")},
                  {"general.name", text_value(model_name_)}};
  const auto add = [&](const char* key, Value value) { out.emplace_back(prefix + key, std::move(value)); };
  add("context_length", u32_value(natural("max_position_embeddings")));
  add("embedding_length", u32_value(natural("hidden_size")));
  add("feed_forward_length", u32_value(natural("intermediate_size")));
  add("block_count", u32_value(natural("num_hidden_layers")));
  add("attention.head_count", u32_value(query_heads()));
  add("attention.head_count_kv", u32_value(key_heads()));
  add("attention.layer_norm_rms_epsilon",
      f32_value(number("rms_norm_eps", architecture_->model_type == "phi3" ? 1e-5 : 1e-6)));
  add("vocab_size", u32_value(natural("vocab_size")));
  const std::uint64_t head = head_size();
  const double part = number("partial_rotary_factor", 1.0);
  add("rope.dimension_count", u32_value(static_cast<std::uint64_t>(part * static_cast<double>(head))));
  if (architecture_->writes_head_size || head * query_heads() != natural("hidden_size")) {
    add("attention.key_length", u32_value(head));
    add("attention.value_length", u32_value(head));
  }
  const bool windows = architecture_->model_type == "gemma2" || architecture_->model_type == "phi3";
  if (windows && member("sliding_window") != nullptr)
    add("attention.sliding_window", u32_value(natural("sliding_window")));
  if (architecture_->model_type == "gemma2") {
    check_attention_scale();
    add("attn_logit_softcapping", f32_value(number("attn_logit_softcapping", 50)));
    add("final_logit_softcapping", f32_value(number("final_logit_softcapping", 30)));
  }
  if (architecture_->model_type == "phi3") {
    const std::uint64_t context = natural("max_position_embeddings");
    const Json* original = member("original_max_position_embeddings");
    add("rope.scaling.original_context_length",
        u32_value(original != nullptr && original->is_number_unsigned() ? original->get<std::uint64_t>() : context));
  }
  add_rope(out, prefix);
  return out;
}

// llama.cpp divides by the root of the head's size, of models with 46 layers by that of the width of one head.
void ModelFacts::check_attention_scale() const {
  const auto width =
      static_cast<double>(natural("num_hidden_layers") == 46 ? natural("hidden_size") / query_heads() : head_size());
  const double own = number("query_pre_attn_scalar", 256);
  if (own == width) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("{} scales attention by query_pre_attn_scalar {}; llama.cpp takes {} for such a model.",
                          where_, own, width),
              "", "UnsupportedFamily");
}

std::vector<float> ModelFacts::rope_factors() const {
  const Json rope = this->rope();
  if (rope["rope_type"] != "llama3") return {};
  const auto need = [&](const char* key) {
    if (rope.contains(key) && rope[key].is_number()) return rope[key].get<double>();
    throw Error(ErrorCode::corrupt_file,
                fmt::format("config.json of {} scales rotary positions without '{}'.", where_, key), "",
                "InvalidConfig");
  };
  const Llama3Rope numbers{need("factor"), need("low_freq_factor"), need("high_freq_factor"),
                           need("original_max_position_embeddings"), rope["rope_theta"].get<double>()};
  return llama3_factors(numbers, head_size());
}

std::vector<float> llama3_factors(const Llama3Rope& rope, std::uint64_t head) {
  std::vector<float> factors;
  for (std::uint64_t i = 0; i < head; i += 2) {
    const double wave = 2 * std::numbers::pi * std::pow(rope.base, static_cast<double>(i) / static_cast<double>(head));
    if (wave < rope.context / rope.high) {
      factors.push_back(1);
    } else if (wave > rope.context / rope.low) {
      factors.push_back(static_cast<float>(rope.factor));
    } else {
      const double smooth = (rope.context / wave - rope.low) / (rope.high - rope.low);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / rope.factor + smooth)));
    }
  }
  return factors;
}

}  // namespace quant::gguf
