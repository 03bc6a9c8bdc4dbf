#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "containers/gguf/export_parts.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

using Json = nlohmann::json;

// Settings of GPT-2 and GPT-NeoX under the names that the other families have.
constexpr std::array<std::pair<const char*, const char*>, 8> kOtherNames = {{{"n_embd", "hidden_size"},
                                                                             {"n_layer", "num_hidden_layers"},
                                                                             {"n_head", "num_attention_heads"},
                                                                             {"n_positions", "max_position_embeddings"},
                                                                             {"n_inner", "intermediate_size"},
                                                                             {"layer_norm_epsilon", "layer_norm_eps"},
                                                                             {"rotary_pct", "partial_rotary_factor"},
                                                                             {"rotary_emb_base", "rope_theta"}}};

// What config.json may leave out (values of Transformers' configuration classes), and what llama.cpp computes whatever
// the settings say: the values that fit it.
struct FamilyFacts {
  std::string_view model_type, defaults, needs;
};
constexpr std::string_view kGemma3Defaults =
    R"({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_size": 2304, "vocab_size": 262208,
        "intermediate_size": 9216, "num_hidden_layers": 26, "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1000000.0})";
constexpr std::string_view kGemma3Needs =
    R"({"hidden_activation": ["gelu_pytorch_tanh"], "use_bidirectional_attention": [false], "attn_logit_softcapping": []})";
constexpr std::array kFamilies = {
    FamilyFacts{"olmo2", R"({"rms_norm_eps": 1e-5, "max_position_embeddings": 2048})", R"({"hidden_act": ["silu"]})"},
    FamilyFacts{"stablelm",
                R"({"num_key_value_heads": 32, "layer_norm_eps": 1e-5, "max_position_embeddings": 4096,
                    "partial_rotary_factor": 0.25, "use_parallel_residual": false})",
                R"({"hidden_act": ["silu"]})"},
    FamilyFacts{"gemma3_text", kGemma3Defaults, kGemma3Needs},
    FamilyFacts{"gemma3", kGemma3Defaults, kGemma3Needs},
    FamilyFacts{"qwen3_moe",
                R"({"num_key_value_heads": 4, "max_position_embeddings": 32768, "num_local_experts": 128,
                    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "intermediate_size": 6144,
                    "norm_topk_prob": false})",
                R"({"hidden_act": ["silu"], "norm_topk_prob": [true], "decoder_sparse_step": [1],
                    "mlp_only_layers": [[]], "use_sliding_window": [false]})"},
    FamilyFacts{"qwen2_moe",
                R"({"num_key_value_heads": 16, "max_position_embeddings": 32768, "num_local_experts": 60,
                    "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "intermediate_size": 5632,
                    "shared_expert_intermediate_size": 5632, "norm_topk_prob": false})",
                R"({"hidden_act": ["silu"], "norm_topk_prob": [false], "decoder_sparse_step": [1],
                    "mlp_only_layers": [[]], "use_sliding_window": [false]})"},
    FamilyFacts{"mixtral",
                R"({"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
                    "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1000000.0})",
                R"({"hidden_act": ["silu"]})"},
    FamilyFacts{"gpt2", R"({"max_position_embeddings": 1024, "layer_norm_eps": 1e-5})",
                R"({"activation_function": ["gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu"],
                    "scale_attn_weights": [true], "scale_attn_by_inverse_layer_idx": [false],
                    "add_cross_attention": [false]})"},
    FamilyFacts{"gpt_neox",
                R"({"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25,
                    "use_parallel_residual": true})",
                R"({"hidden_act": ["gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu"]})"},
};

}  // namespace

ModelFacts::ModelFacts(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  where_ = checkpoint.location().string();
  model_name_ = checkpoint.location().filename().string();
  architecture_ = find_architecture(config.model_type);
  read_settings(config.text);
  if (architecture_ == nullptr || !config_.is_object()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{} is of the family '{}', which has no GGUF form here.", where_, config.model_type),
                fmt::format("Families: {}.", architecture_names()), "UnsupportedFamily");
  }
  tied_ = architecture_->always_tied || config.tie_word_embeddings ||
          (architecture_->ties && member("tie_word_embeddings") == nullptr);
  add_defaults();
  check_settings();
}

void ModelFacts::read_settings(const std::string& text) {
  config_ = Json::parse(text.empty() ? "{}" : text, nullptr, false);
  if (architecture_ == nullptr || architecture_->nested.empty() || !config_.is_object()) return;
  const auto nested = config_.find(std::string(architecture_->nested));
  if (nested != config_.end() && nested->is_object()) config_ = Json(*nested);
}

// What this family's config.json calls otherwise, and what it may leave out.
void ModelFacts::add_defaults() {
  for (const auto& [own, name] : kOtherNames) {
    const Json* value = member(own);
    if (value != nullptr && member(name) == nullptr) config_[name] = Json(*value);
  }
  const auto family = std::ranges::find(kFamilies, architecture_->model_type, &FamilyFacts::model_type);
  if (family == kFamilies.end()) return;
  const Json defaults = Json::parse(family->defaults);
  for (const auto& [key, value] : defaults.items()) {
    if (!config_.contains(key)) config_[key] = value;
  }
  if (architecture_->model_type == "gpt2" && member("intermediate_size") == nullptr) {
    config_["intermediate_size"] = 4 * natural("hidden_size");
  }
}

void ModelFacts::refuse(const std::string& setting, const std::string& wanted) const {
  throw Error(ErrorCode::unsupported,
              fmt::format("{} has {}; llama.cpp's '{}' models have {}.", where_, setting, architecture_->name, wanted),
              "", "UnsupportedFamily");
}

void ModelFacts::check_settings() const {
  const auto family = std::ranges::find(kFamilies, architecture_->model_type, &FamilyFacts::model_type);
  if (family == kFamilies.end()) return;
  const Json needs = Json::parse(family->needs);
  for (const auto& [key, values] : needs.items()) {
    const Json* value = member(key.c_str());
    if (value == nullptr || std::ranges::find(values, *value) != values.end()) continue;
    refuse(fmt::format("{} = {}", key, value->dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60)),
           values.size() == 1 ? values.front().dump() : "one of " + values.dump());
  }
  if (architecture_->even_heads && head_size() * query_heads() != natural("hidden_size")) {
    refuse(fmt::format("{} heads of {}, hidden_size {}", query_heads(), head_size(), natural("hidden_size")),
           "heads of hidden_size / num_attention_heads");
  }
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
  if (architecture_->norm_plus_one) return 256;  // Gemma
  return natural("hidden_size") / query_heads();
}

// rope_parameters (Transformers 5), or rope_scaling and rope_theta before.
Json ModelFacts::rope() const {
  Json rope = Json::object();
  if (const Json* old = member("rope_scaling"); old != nullptr && old->is_object()) rope = *old;
  if (const Json* now = member("rope_parameters"); now != nullptr && now->is_object()) rope = *now;
  if (rope.contains("full_attention") && rope["full_attention"].is_object()) rope = Json(rope["full_attention"]);
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
  add_norms(out, prefix);
  add("vocab_size", u32_value(natural("vocab_size")));
  add_heads(out, prefix);
  add_windows(out, prefix);
  if (architecture_->experts) add_experts(out, prefix);
  if (const Json* parallel = member("use_parallel_residual"); architecture_->layer_norm && parallel != nullptr) {
    add("use_parallel_residual", bool_value(*parallel == true));
  }
  if (!architecture_->learned_positions) add_rope(out, prefix);
  return out;
}

void ModelFacts::add_norms(Metadata& out, const std::string& prefix) const {
  if (architecture_->layer_norm) {
    out.emplace_back(prefix + "attention.layer_norm_epsilon", f32_value(number("layer_norm_eps", 1e-5)));
    return;
  }
  const double absent = architecture_->model_type == "phi3" ? 1e-5 : 1e-6;
  out.emplace_back(prefix + "attention.layer_norm_rms_epsilon", f32_value(number("rms_norm_eps", absent)));
}

void ModelFacts::add_heads(Metadata& out, const std::string& prefix) const {
  const std::uint64_t head = head_size();
  if (!architecture_->learned_positions) {
    const Json rope = this->rope();
    const bool within = rope.contains("partial_rotary_factor") && rope["partial_rotary_factor"].is_number();
    const double part = within ? rope["partial_rotary_factor"].get<double>() : number("partial_rotary_factor", 1.0);
    const double size = part * static_cast<double>(head);
    if (!(size >= 1) || size > static_cast<double>(head)) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("config.json of {} turns {} of each head by position.", where_, part), "",
                  "InvalidConfig");
    }
    out.emplace_back(prefix + "rope.dimension_count", u32_value(static_cast<std::uint64_t>(size)));
  }
  if (architecture_->writes_head_size || head * query_heads() != natural("hidden_size")) {
    out.emplace_back(prefix + "attention.key_length", u32_value(head));
    out.emplace_back(prefix + "attention.value_length", u32_value(head));
  }
}

void ModelFacts::add_windows(Metadata& out, const std::string& prefix) const {
  const auto add = [&](const char* key, Value value) { out.emplace_back(prefix + key, std::move(value)); };
  const bool windows = architecture_->name == "gemma2" || architecture_->name == "phi3";
  if (windows && member("sliding_window") != nullptr)
    add("attention.sliding_window", u32_value(natural("sliding_window")));
  if (architecture_->name == "gemma3") add_local_layers(out, prefix);
  if (architecture_->name == "gemma2") {
    check_attention_scale(46);
    add("attn_logit_softcapping", f32_value(number("attn_logit_softcapping", 50)));
    add("final_logit_softcapping", f32_value(number("final_logit_softcapping", 30)));
  }
  if (architecture_->name == "phi3") {
    const std::uint64_t context = natural("max_position_embeddings");
    const Json* original = member("original_max_position_embeddings");
    add("rope.scaling.original_context_length",
        u32_value(original != nullptr && original->is_number_unsigned() ? original->get<std::uint64_t>() : context));
  }
}

// Which layers of Gemma 3 have the window: by name, or all but every n-th.
std::vector<bool> ModelFacts::sliding_layers() const {
  const std::uint64_t layers = natural("num_hidden_layers");
  std::vector<bool> sliding;
  if (const Json* types = member("layer_types"); types != nullptr && types->is_array()) {
    for (const Json& type : *types) sliding.push_back(type == "sliding_attention");
    if (sliding.size() != layers) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("config.json of {} has {} layer_types for {} layers.", where_, sliding.size(), layers),
                  "", "InvalidConfig");
    }
    return sliding;
  }
  const char* const key =
      member("sliding_window_pattern") != nullptr ? "sliding_window_pattern" : "_sliding_window_pattern";
  const std::uint64_t every = member(key) != nullptr ? natural(key) : 6;
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(layers, 100000); ++i) sliding.push_back((i + 1) % every != 0);
  return sliding;
}

void ModelFacts::add_local_layers(Metadata& out, const std::string& prefix) const {
  const auto add = [&](const char* key, Value value) { out.emplace_back(prefix + key, std::move(value)); };
  check_attention_scale(62);
  if (member("final_logit_softcapping") != nullptr) {
    add("final_logit_softcapping", f32_value(number("final_logit_softcapping", 0)));
  }
  const std::vector<bool> sliding = sliding_layers();
  if (member("sliding_window") == nullptr || std::ranges::find(sliding, true) == sliding.end()) return;
  const auto every = static_cast<std::uint64_t>(std::ranges::find(sliding, false) - sliding.begin()) + 1;
  for (std::uint64_t i = 0; i < sliding.size(); ++i) {
    if (sliding[i] != ((i + 1) % every != 0)) refuse("windows in irregular layers", "a window in all but every n-th");
  }
  add("attention.sliding_window", u32_value(natural("sliding_window")));
  if (every != 6) add("attention.sliding_window_pattern", u32_value(every));
  Json local = Json::object();
  if (const Json* all = member("rope_parameters"); all != nullptr && all->is_object()) {
    local = all->value("sliding_attention", Json::object());
  }
  const bool plain = !local.is_object() || local.value("rope_type", Json("default")) == "default";
  if (!plain) refuse("scaled rotary positions in layers with a window", "plain ones there");
  const bool own = local.is_object() && local.contains("rope_theta") && local["rope_theta"].is_number();
  const double base = own ? local["rope_theta"].get<double>() : number("rope_local_base_freq", 10000.0);
  add("rope.freq_base_swa", f32_value(base));
}

void ModelFacts::add_experts(Metadata& out, const std::string& prefix) const {
  const auto add = [&](const char* key, const char* name) {
    if (member(name) != nullptr) out.emplace_back(prefix + key, u32_value(natural(name)));
  };
  out.emplace_back(prefix + "expert_count", u32_value(experts()));
  out.emplace_back(prefix + "expert_used_count", u32_value(natural("num_experts_per_tok")));
  add("expert_feed_forward_length", "moe_intermediate_size");
  if (architecture_->model_type == "qwen2_moe") {
    add("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
  }
}

// llama.cpp divides by the root of the head's size, of models with that many layers by that of the width of one head.
void ModelFacts::check_attention_scale(std::uint64_t layers) const {
  const auto width = static_cast<double>(natural("num_hidden_layers") == layers ? natural("hidden_size") / query_heads()
                                                                                : head_size());
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
