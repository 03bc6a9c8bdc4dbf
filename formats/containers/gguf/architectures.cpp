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

constexpr std::array kStableLm = {
    NamePair{"input_layernorm", "attn_norm"},    NamePair{"self_attn.q_proj", "attn_q"},
    NamePair{"self_attn.k_proj", "attn_k"},      NamePair{"self_attn.v_proj", "attn_v"},
    NamePair{"self_attn.o_proj", "attn_output"}, NamePair{"post_attention_layernorm", "ffn_norm"},
    NamePair{"mlp.gate_proj", "ffn_gate"},       NamePair{"mlp.up_proj", "ffn_up"},
    NamePair{"mlp.down_proj", "ffn_down"}};
constexpr std::array kStableLmNorms = {NamePair{"self_attn.q_layernorm.norms.#", "attn_q_norm"},
                                       NamePair{"self_attn.k_layernorm.norms.#", "attn_k_norm"}};
constexpr std::array kOlmo2 = {NamePair{"self_attn.q_proj", "attn_q"},
                               NamePair{"self_attn.k_proj", "attn_k"},
                               NamePair{"self_attn.v_proj", "attn_v"},
                               NamePair{"self_attn.o_proj", "attn_output"},
                               NamePair{"self_attn.q_norm", "attn_q_norm"},
                               NamePair{"self_attn.k_norm", "attn_k_norm"},
                               NamePair{"mlp.gate_proj", "ffn_gate"},
                               NamePair{"mlp.up_proj", "ffn_up"},
                               NamePair{"mlp.down_proj", "ffn_down"},
                               NamePair{"post_attention_layernorm", "post_attention_norm"},
                               NamePair{"post_feedforward_layernorm", "post_ffw_norm"}};
constexpr std::array kQwenExperts = {NamePair{"input_layernorm", "attn_norm"},
                                     NamePair{"self_attn.q_proj", "attn_q"},
                                     NamePair{"self_attn.k_proj", "attn_k"},
                                     NamePair{"self_attn.v_proj", "attn_v"},
                                     NamePair{"self_attn.o_proj", "attn_output"},
                                     NamePair{"post_attention_layernorm", "ffn_norm"},
                                     NamePair{"self_attn.q_norm", "attn_q_norm"},
                                     NamePair{"self_attn.k_norm", "attn_k_norm"},
                                     NamePair{"mlp.gate", "ffn_gate_inp"},
                                     NamePair{"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                                     NamePair{"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                                     NamePair{"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                                     NamePair{"mlp.shared_expert_gate", "ffn_gate_inp_shexp"}};
constexpr std::array kQwenStacks = {NamePair{"mlp.experts.#.gate_proj", "ffn_gate_exps"},
                                    NamePair{"mlp.experts.#.up_proj", "ffn_up_exps"},
                                    NamePair{"mlp.experts.#.down_proj", "ffn_down_exps"}};
constexpr std::array kMixtral = {NamePair{"input_layernorm", "attn_norm"},
                                 NamePair{"self_attn.q_proj", "attn_q"},
                                 NamePair{"self_attn.k_proj", "attn_k"},
                                 NamePair{"self_attn.v_proj", "attn_v"},
                                 NamePair{"self_attn.o_proj", "attn_output"},
                                 NamePair{"post_attention_layernorm", "ffn_norm"},
                                 NamePair{"block_sparse_moe.gate", "ffn_gate_inp"},
                                 NamePair{"mlp.gate", "ffn_gate_inp"}};
constexpr std::array kMixtralStacks = {NamePair{"block_sparse_moe.experts.#.w1", "ffn_gate_exps"},
                                       NamePair{"block_sparse_moe.experts.#.w3", "ffn_up_exps"},
                                       NamePair{"block_sparse_moe.experts.#.w2", "ffn_down_exps"}};
constexpr std::array kGpt2 = {NamePair{"ln_1", "attn_norm"},          NamePair{"attn.c_attn", "attn_qkv"},
                              NamePair{"attn.c_proj", "attn_output"}, NamePair{"ln_2", "ffn_norm"},
                              NamePair{"mlp.c_fc", "ffn_up"},         NamePair{"mlp.c_proj", "ffn_down"}};
constexpr std::array kGpt2Outside = {NamePair{"transformer.wte", "token_embd"},
                                     NamePair{"transformer.wpe", "position_embd"},
                                     NamePair{"transformer.ln_f", "output_norm"}, NamePair{"lm_head", "output"}};
constexpr std::array kNeox = {
    NamePair{"input_layernorm", "attn_norm"},   NamePair{"attention.query_key_value", "attn_qkv"},
    NamePair{"attention.dense", "attn_output"}, NamePair{"post_attention_layernorm", "ffn_norm"},
    NamePair{"mlp.dense_h_to_4h", "ffn_up"},    NamePair{"mlp.dense_4h_to_h", "ffn_down"}};
constexpr std::array kNeoxOutside = {NamePair{"gpt_neox.embed_in", "token_embd"},
                                     NamePair{"gpt_neox.final_layer_norm", "output_norm"},
                                     NamePair{"embed_out", "output"}, NamePair{"lm_head", "output"}};
// The language model within the multimodal one, as Transformers 4 and 5 call it.
constexpr std::array kWithinGemma3 = {NamePair{"language_model.model.", "model."},
                                      NamePair{"model.language_model.", "model."},
                                      NamePair{"language_model.lm_head.", "lm_head."}};
// Experts as one tensor of three dimensions, in both folders that Transformers has used.
constexpr std::array<std::string_view, 2> kFusedExperts = {"mlp.experts.", "block_sparse_moe.experts."};

constexpr Architecture gemma3(std::string_view model_type) {
  return {.model_type = model_type,
          .name = "gemma3",
          .model_class = "Gemma3ForCausalLM",
          .modules = kGemma2,
          .norm_plus_one = true,
          .always_tied = true,
          .writes_head_size = true,
          .ties = true};
}

constexpr Architecture multimodal_gemma3() {
  Architecture one = gemma3("gemma3");
  one.prefixes = kWithinGemma3;
  one.nested = "text_config";
  return one;
}

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
    Architecture{.model_type = "olmo2",
                 .name = "olmo2",
                 .model_class = "Olmo2ForCausalLM",
                 .modules = kOlmo2,
                 .needs_head = true,
                 .even_heads = true},
    Architecture{.model_type = "stablelm",
                 .name = "stablelm",
                 .model_class = "StableLmForCausalLM",
                 .modules = kStableLm,
                 .stacks = kStableLmNorms,
                 .layer_norm = true,
                 .needs_head = true,
                 .even_heads = true},
    gemma3("gemma3_text"),
    multimodal_gemma3(),
    Architecture{.model_type = "qwen3_moe",
                 .name = "qwen3moe",
                 .model_class = "Qwen3MoeForCausalLM",
                 .modules = kQwenExperts,
                 .writes_head_size = true,
                 .stacks = kQwenStacks,
                 .experts = true},
    Architecture{.model_type = "qwen2_moe",
                 .name = "qwen2moe",
                 .model_class = "Qwen2MoeForCausalLM",
                 .modules = kQwenExperts,
                 .stacks = kQwenStacks,
                 .experts = true,
                 .needs_head = true,
                 .even_heads = true},
    Architecture{.model_type = "mixtral",
                 .name = "llama",
                 .model_class = "MixtralForCausalLM",
                 .modules = kMixtral,
                 .permutes = true,
                 .stacks = kMixtralStacks,
                 .experts = true},
    Architecture{.model_type = "gpt2",
                 .name = "gpt2",
                 .model_class = "GPT2LMHeadModel",
                 .modules = kGpt2,
                 .ties = true,
                 .base = "transformer.",
                 .layers = "h.",
                 .outside = kGpt2Outside,
                 .layer_norm = true,
                 .transposes = true,
                 .learned_positions = true},
    Architecture{.model_type = "gpt_neox",
                 .name = "gptneox",
                 .model_class = "GPTNeoXForCausalLM",
                 .modules = kNeox,
                 .base = "gpt_neox.",
                 .outside = kNeoxOutside,
                 .layer_norm = true,
                 .needs_head = true,
                 .even_heads = true,
                 .fuses_heads = true},
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

// "12.attn_q.weight" of a layer, whichever way it is called.
struct LayerName {
  std::string_view layer, rest;
};

std::optional<LayerName> within(std::string_view prefix, std::string_view name) {
  LayerName found;
  if (!name.starts_with(prefix) || !split_layer(name.substr(prefix.size()), found.layer, found.rest)) return {};
  return found;
}

std::span<const NamePair> outside_of(const Architecture& architecture) {
  return architecture.outside.empty() ? std::span<const NamePair>(kOutside) : architecture.outside;
}

std::string layers_of(const Architecture& architecture) {
  return std::string(architecture.base) + std::string(architecture.layers);
}

std::optional<std::string> rename_all(const Architecture& architecture, std::string_view name, bool to_gguf) {
  const auto from = to_gguf ? &NamePair::model : &NamePair::gguf, to = to_gguf ? &NamePair::gguf : &NamePair::model;
  const std::string layers = layers_of(architecture), prefix = to_gguf ? layers : "blk.";
  if (!name.starts_with(prefix)) return rename(outside_of(architecture), name, from, to);
  const auto own = within(prefix, name);
  const auto found = own ? rename(architecture.modules, own->rest, from, to) : std::nullopt;
  if (!found) return std::nullopt;
  return (to_gguf ? "blk." : layers) + std::string(own->layer) + "." + *found;
}

// The name under which the family's own model has the tensor.
std::string full_name(const Architecture& architecture, std::string_view name) {
  for (const NamePair& prefix : architecture.prefixes) {
    if (name.starts_with(prefix.model)) return std::string(prefix.gguf) + std::string(name.substr(prefix.model.size()));
  }
  if (architecture.outside.empty() || name.starts_with(architecture.base)) return std::string(name);
  if (rename(outside_of(architecture), name, &NamePair::model, &NamePair::gguf)) return std::string(name);
  return std::string(architecture.base) + std::string(name);
}

// "mlp.experts.12.up_proj.weight" against "mlp.experts.#.up_proj": 12.
std::optional<std::uint64_t> number_in(std::string_view name, std::string_view pattern) {
  const std::size_t mark = pattern.find('#');
  const std::string tail = std::string(pattern.substr(mark + 1)) + ".weight";
  if (!name.starts_with(pattern.substr(0, mark)) || !name.ends_with(tail) || name.size() <= mark + tail.size()) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(mark, name.size() - mark - tail.size());
  std::uint64_t number = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool plain = read.ec == std::errc() && read.ptr == digits.data() + digits.size();
  if (!plain || (digits.size() > 1 && digits.front() == '0')) return std::nullopt;
  return number;
}

std::string layer_tensor(std::string_view layer, std::string_view module) {
  return "blk." + std::string(layer) + "." + std::string(module) + ".weight";
}

std::vector<Place> places_of_experts(const LayerName& own) {
  for (const std::string_view folder : kFusedExperts) {
    if (!own.rest.starts_with(folder)) continue;
    const std::string_view leaf = own.rest.substr(folder.size());
    if (leaf == "down_proj") return {{layer_tensor(own.layer, "ffn_down_exps"), Piece::stack}};
    if (leaf == "gate_up_proj") {
      return {{layer_tensor(own.layer, "ffn_gate_exps"), Piece::first_halves},
              {layer_tensor(own.layer, "ffn_up_exps"), Piece::second_halves}};
    }
  }
  return {};
}

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  const auto found = std::ranges::find(kAll, model_type, &Architecture::model_type);
  return found == kAll.end() ? nullptr : &*found;
}

const Architecture* architecture_of_file(std::string_view name, bool experts) {
  const auto matches = [&](const Architecture& one) { return one.name == name && (one.experts || !experts); };
  const auto found = std::ranges::find_if(kAll, matches);
  return found == kAll.end() ? nullptr : &*found;
}

std::string architecture_names() {
  std::string names;
  for (const Architecture& one : kAll) names += (names.empty() ? "" : ", ") + std::string(one.model_type);
  return names;
}

std::optional<std::string> gguf_name(const Architecture& architecture, std::string_view model_name) {
  return rename_all(architecture, full_name(architecture, model_name), true);
}

std::optional<std::string> model_name(const Architecture& architecture, std::string_view gguf_name) {
  return rename_all(architecture, gguf_name, false);
}

std::vector<Place> places_of(const Architecture& architecture, std::string_view model_name) {
  if (auto whole = gguf_name(architecture, model_name)) return {{std::move(*whole)}};
  const std::string name = full_name(architecture, model_name);
  const auto own = within(layers_of(architecture), name);
  if (!own) return {};
  for (const NamePair& stack : architecture.stacks) {
    if (const auto number = number_in(own->rest, stack.model)) {
      return {{layer_tensor(own->layer, stack.gguf), Piece::part, *number}};
    }
  }
  return architecture.experts ? places_of_experts(*own) : std::vector<Place>{};
}

std::optional<std::string> part_name(const Architecture& architecture, std::string_view gguf_name, std::uint64_t part) {
  const auto own = within("blk.", gguf_name);
  if (!own || !own->rest.ends_with(".weight")) return std::nullopt;
  const std::string_view module = own->rest.substr(0, own->rest.rfind('.'));
  const auto stack = std::ranges::find(architecture.stacks, module, &NamePair::gguf);
  if (stack == architecture.stacks.end()) return std::nullopt;
  const std::size_t mark = stack->model.find('#');
  return layers_of(architecture) + std::string(own->layer) + "." + std::string(stack->model.substr(0, mark)) +
         std::to_string(part) + std::string(stack->model.substr(mark + 1)) + ".weight";
}

bool is_buffer(std::string_view model_name) {
  return model_name.ends_with("rotary_emb.inv_freq") || model_name.ends_with("masked_bias") ||
         model_name.ends_with(".attn.bias") || model_name.ends_with(".attention.bias");
}

bool is_of_images(const Architecture& architecture, std::string_view model_name) {
  if (architecture.nested.empty()) return false;
  if (model_name.starts_with("model.")) model_name.remove_prefix(6);
  return model_name.starts_with("vision_tower.") || model_name.starts_with("multi_modal_projector.");
}

bool is_transposed(const Architecture& architecture, std::string_view gguf_name) {
  return architecture.transposes && gguf_name.starts_with("blk.") && gguf_name.ends_with(".weight") &&
         !gguf_name.ends_with("norm.weight");
}

Rows rows_of(const Architecture& architecture, std::string_view gguf_name) {
  const auto own = within("blk.", gguf_name);
  if (!own) return Rows::in_order;
  const std::string_view rest = own->rest;
  if (architecture.fuses_heads) {
    return rest == "attn_qkv.weight" || rest == "attn_qkv.bias" ? Rows::fused_heads : Rows::in_order;
  }
  if (!architecture.permutes) return Rows::in_order;
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

std::uint64_t unfused_row(std::uint64_t row, std::uint64_t heads, std::uint64_t head) {
  const std::uint64_t block = row / head;
  return (block % 3 * heads + block / 3) * head + row % head;
}

}  // namespace quant::gguf
