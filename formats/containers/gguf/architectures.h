// Model families that llama.cpp runs, and how their tensors are called there. Source: llama.cpp's converter.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quant::gguf {

/// The name of one module of a layer: "self_attn.q_proj" and "attn_q".
struct NamePair {
  std::string_view model, gguf;
};

struct Architecture {
  std::string_view model_type;        ///< config.json's
  std::string_view name;              ///< general.architecture
  std::string_view model_class;       ///< "LlamaForCausalLM"
  std::span<const NamePair> modules;  ///< of a layer
  bool permutes = false;              ///< rows of q and k are in the order of interleaved rotary pairs
  bool norm_plus_one = false;         ///< norms hold 1 + the model's weight
  bool always_tied = false;           ///< the head is never stored
  bool writes_head_size = false;      ///< attention.key_length is always there
  bool ties = false;                  ///< a model without a word in its config.json shares embedding and head
};

/// By model_type, or null.
const Architecture* find_architecture(std::string_view model_type);
/// By general.architecture, the first that has it, or null.
const Architecture* architecture_of_file(std::string_view name);
/// "llama, mistral, ...".
std::string architecture_names();

/// Names of whole tensors, or nothing where the family has none of that name.
std::optional<std::string> gguf_name(const Architecture& architecture, std::string_view model_name);
std::optional<std::string> model_name(const Architecture& architecture, std::string_view gguf_name);
/// Whether the rows of this tensor are permuted, and with the number of which heads: "q", "k" or nothing.
enum class Rows { in_order, query_heads, key_heads };
Rows rows_of(const Architecture& architecture, std::string_view gguf_name);

/// The row of the model that row `row` of the file holds, for heads of `head` rows: row 2 i + j of a head is the
/// model's j * head / 2 + i. And the inverse.
std::uint64_t model_row(std::uint64_t row, std::uint64_t head);
std::uint64_t file_row(std::uint64_t row, std::uint64_t head);

}  // namespace quant::gguf
