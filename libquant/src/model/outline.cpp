#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>

#include "quant/model.h"

namespace quant {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](auto ending) { return text.ends_with(ending); });
}

std::string_view last_part(std::string_view name) {
  const auto dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

bool is_embedding_name(std::string_view leaf) {
  static constexpr std::array<std::string_view, 4> kExact{"wte", "wpe", "shared", "relative_attention_bias"};
  return leaf.find("embed") != std::string_view::npos ? leaf != "embed_out" && !leaf.ends_with("_proj")
                                                      : std::find(kExact.begin(), kExact.end(), leaf) != kExact.end();
}

// GPT-2 stores these as [in_features, out_features].
bool is_conv1d(const ModelConfig& config, std::string_view leaf) {
  return (config.model_type == "gpt2" || config.model_type == "openai-gpt") &&
         (leaf == "c_attn" || leaf == "c_proj" || leaf == "c_fc" || leaf == "q_attn");
}

std::string class_of(const ModelConfig& config, const TensorInfo& weight, std::string_view module) {
  const std::string_view leaf = last_part(module);
  if (weight.shape.size() == 1) return "Norm";
  if (weight.shape.size() != 2) return "Other";
  if (is_embedding_name(leaf)) return "Embedding";
  if (is_conv1d(config, leaf)) return "Conv1D";
  return "Linear";
}

// A causal language model without a head tensor uses the embedding as its head, whatever config.json leaves out.
bool has_tied_head(const Checkpoint& checkpoint) {
  if (checkpoint.find("lm_head.weight") != nullptr || checkpoint.find("embed_out.weight") != nullptr) return false;
  const ModelConfig& config = checkpoint.config();
  const bool generates =
      std::any_of(config.architectures.begin(), config.architectures.end(), [](const std::string& name) {
        return ends_with_any(name, {"ForCausalLM", "LMHeadModel", "ForConditionalGeneration"});
      });
  return generates || (config.tie_word_embeddings && !config.architectures.empty());
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  std::size_t i = 0;
  std::size_t j = 0;
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    const auto number = [&](std::string_view text, std::size_t& at) {
      while (at < text.size() && text[at] == '0') ++at;
      const std::size_t start = at;
      while (at < text.size() && digit(text[at])) ++at;
      return text.substr(start, at - start);
    };
    const auto left = number(a, i);
    const auto right = number(b, j);
    if (left.size() != right.size()) return left.size() < right.size();
    if (left != right) return left < right;
  }
  if (i < a.size() || j < b.size()) return i >= a.size() && j < b.size();
  return a < b;  // equal but for leading zeros
}

bool is_embedding(std::string_view module) { return is_embedding_name(last_part(module)); }

ModelOutline outline_model(const Checkpoint& checkpoint) {
  ModelOutline outline;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    outline.parameters += element_count(tensor.shape);
    const std::string_view name = tensor.name;
    if (!name.ends_with(kWeightSuffix) || name.size() == kWeightSuffix.size()) {
      outline.others.push_back(&tensor);
      continue;
    }
    std::string module(name.substr(0, name.size() - kWeightSuffix.size()));
    std::string class_name = class_of(checkpoint.config(), tensor, module);
    outline.modules.push_back({std::move(module), std::move(class_name), &tensor});
  }
  if (has_tied_head(checkpoint)) outline.modules.push_back({"lm_head", "Linear", nullptr});
  std::sort(outline.modules.begin(), outline.modules.end(),
            [](const Module& a, const Module& b) { return natural_less(a.name, b.name); });
  std::sort(outline.others.begin(), outline.others.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return natural_less(a->name, b->name); });
  return outline;
}

}  // namespace quant
