#include "containers/gguf/architectures.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>

namespace quant::gguf {
namespace {

constexpr std::array kLlama = {
    NamePair{"input_layernorm", "attn_norm"},    NamePair{"self_attn.q_proj", "attn_q"},
    NamePair{"self_attn.k_proj", "attn_k"},      NamePair{"self_attn.v_proj", "attn_v"},
    NamePair{"self_attn.o_proj", "attn_output"}, NamePair{"post_attention_layernorm", "ffn_norm"},
    NamePair{"mlp.gate_proj", "ffn_gate"},       NamePair{"mlp.up_proj", "ffn_up"},
    NamePair{"mlp.down_proj", "ffn_down"},       NamePair{"self_attn.q_norm", "attn_q_norm"},
    NamePair{"self_attn.k_norm", "attn_k_norm"}};
constexpr std::array kGemma2 = {NamePair{"input_layernorm", "attn_norm"},
                                NamePair{"self_attn.q_proj", "attn_q"},
                                NamePair{"self_attn.k_proj", "attn_k"},
                                NamePair{"self_attn.v_proj", "attn_v"},
                                NamePair{"self_attn.o_proj", "attn_output"},
                                NamePair{"post_attention_layernorm", "post_attention_norm"},
                                NamePair{"pre_feedforward_layernorm", "ffn_norm"},
                                NamePair{"post_feedforward_layernorm", "post_ffw_norm"},
                                NamePair{"mlp.gate_proj", "ffn_gate"},
                                NamePair{"mlp.up_proj", "ffn_up"},
                                NamePair{"mlp.down_proj", "ffn_down"},
                                NamePair{"self_attn.q_norm", "attn_q_norm"},
                                NamePair{"self_attn.k_norm", "attn_k_norm"}};
constexpr std::array kPhi3 = {
    NamePair{"input_layernorm", "attn_norm"},    NamePair{"self_attn.qkv_proj", "attn_qkv"},
    NamePair{"self_attn.o_proj", "attn_output"}, NamePair{"post_attention_layernorm", "ffn_norm"},
    NamePair{"mlp.gate_up_proj", "ffn_up"},      NamePair{"mlp.down_proj", "ffn_down"}};

constexpr std::array kAll = {
    Architecture{
        .model_type = "llama", .name = "llama", .model_class = "LlamaForCausalLM", .modules = kLlama, .permutes = true},
    Architecture{.model_type = "mistral",
                 .name = "llama",
                 .model_class = "MistralForCausalLM",
                 .modules = kLlama,
                 .permutes = true},
    Architecture{.model_type = "qwen2", .name = "qwen2", .model_class = "Qwen2ForCausalLM", .modules = kLlama},
    Architecture{.model_type = "qwen3",
                 .name = "qwen3",
                 .model_class = "Qwen3ForCausalLM",
                 .modules = kLlama,
                 .writes_head_size = true},
    Architecture{.model_type = "gemma",
                 .name = "gemma",
                 .model_class = "GemmaForCausalLM",
                 .modules = kLlama,
                 .norm_plus_one = true,
                 .always_tied = true,
                 .writes_head_size = true,
                 .ties = true},
    Architecture{.model_type = "gemma2",
                 .name = "gemma2",
                 .model_class = "Gemma2ForCausalLM",
                 .modules = kGemma2,
                 .norm_plus_one = true,
                 .always_tied = true,
                 .writes_head_size = true,
                 .ties = true},
    Architecture{.model_type = "phi3", .name = "phi3", .model_class = "Phi3ForCausalLM", .modules = kPhi3},
};

constexpr std::array kOutside = {NamePair{"model.embed_tokens", "token_embd"}, NamePair{"model.norm", "output_norm"},
                                 NamePair{"lm_head", "output"}};

// "12.attn_q" -> 12 and "attn_q".
bool split_layer(std::string_view text, std::string_view& layer, std::string_view& rest) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > 6) return false;
  layer = text.substr(0, dot);
  rest = text.substr(dot + 1);
  return std::ranges::all_of(layer, [](char c) { return c >= '0' && c <= '9'; });
}

// The same tensor under another name: `from` and `to` say which halves of the pairs are which.
std::optional<std::string> rename(std::span<const NamePair> pairs, std::string_view name,
                                  std::string_view NamePair::*from, std::string_view NamePair::*to) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view ending = name.substr(dot);
  if (ending != ".weight" && ending != ".bias") return std::nullopt;
  for (const NamePair& pair : pairs) {
    if (pair.*from == name.substr(0, dot)) return std::string(pair.*to) + std::string(ending);
  }
  return std::nullopt;
}

std::optional<std::string> rename_all(const Architecture& architecture, std::string_view name, bool to_gguf) {
  const auto from = to_gguf ? &NamePair::model : &NamePair::gguf, to = to_gguf ? &NamePair::gguf : &NamePair::model;
  const std::string_view prefix = to_gguf ? "model.layers." : "blk.", other = to_gguf ? "blk." : "model.layers.";
  if (!name.starts_with(prefix)) return rename(kOutside, name, from, to);
  std::string_view layer, rest;
  if (!split_layer(name.substr(prefix.size()), layer, rest)) return std::nullopt;
  const auto found = rename(architecture.modules, rest, from, to);
  if (!found) return std::nullopt;
  return std::string(other) + std::string(layer) + "." + *found;
}

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  const auto found = std::ranges::find(kAll, model_type, &Architecture::model_type);
  return found == kAll.end() ? nullptr : &*found;
}

const Architecture* architecture_of_file(std::string_view name) {
  const auto found = std::ranges::find(kAll, name, &Architecture::name);
  return found == kAll.end() ? nullptr : &*found;
}

std::string architecture_names() {
  std::string names;
  for (const Architecture& one : kAll) names += (names.empty() ? "" : ", ") + std::string(one.model_type);
  return names;
}

std::optional<std::string> gguf_name(const Architecture& architecture, std::string_view model_name) {
  return rename_all(architecture, model_name, true);
}

std::optional<std::string> model_name(const Architecture& architecture, std::string_view gguf_name) {
  return rename_all(architecture, gguf_name, false);
}

Rows rows_of(const Architecture& architecture, std::string_view gguf_name) {
  std::string_view layer, rest;
  if (!architecture.permutes || !gguf_name.starts_with("blk.") || !split_layer(gguf_name.substr(4), layer, rest)) {
    return Rows::in_order;
  }
  if (rest == "attn_q.weight" || rest == "attn_q.bias") return Rows::query_heads;
  if (rest == "attn_k.weight" || rest == "attn_k.bias") return Rows::key_heads;
  return Rows::in_order;
}

std::uint64_t model_row(std::uint64_t row, std::uint64_t head) {
  const std::uint64_t place = row % head;
  return row - place + place % 2 * (head / 2) + place / 2;
}

std::uint64_t file_row(std::uint64_t row, std::uint64_t head) {
  const std::uint64_t place = row % head;
  return row - place + place % (head / 2) * 2 + place / (head / 2);
}

}  // namespace quant::gguf
