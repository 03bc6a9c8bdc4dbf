// Model families that llama.cpp runs, and how their tensors are called there. Source: llama.cpp's converter.
#pragma once

#include <cstdint>
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
  std::string_view model_type;             ///< config.json's
  std::string_view name;                   ///< general.architecture
  std::string_view model_class;            ///< "LlamaForCausalLM"
  std::span<const NamePair> modules;       ///< of a layer
  bool permutes = false;                   ///< rows of q and k are in the order of interleaved rotary pairs
  bool norm_plus_one = false;              ///< norms hold 1 + the model's weight
  bool always_tied = false;                ///< the head is never stored
  bool writes_head_size = false;           ///< attention.key_length is always there
  bool ties = false;                       ///< a model without a word in its config.json shares embedding and head
  std::string_view base = "model.";        ///< before all names but the head's; a model saved without its head has none
  std::string_view layers = "layers.";     ///< after it, before the number of a layer
  std::span<const NamePair> outside = {};  ///< names outside of layers; empty: Llama's
  std::span<const NamePair> stacks = {};   ///< of a layer: one tensor for many of the model, whose number is '#'
  std::span<const NamePair> prefixes = {};  ///< other beginnings of names, and what they stand for
  std::string_view nested = {};             ///< the object of config.json that holds the settings
  bool experts = false;                     ///< a mixture of them in every layer
  bool layer_norm = false;                  ///< norms take the mean off
  bool needs_head = false;                  ///< llama.cpp wants the head even where it is the embedding
  bool even_heads = false;                  ///< llama.cpp wants heads as wide as hidden size / heads
  bool fuses_heads = false;                 ///< rows of q, k and v of a head follow each other in the model
  bool transposes = false;                  ///< the model stores the linears of its layers as [in, out]
  bool learned_positions = false;           ///< instead of rotary ones
};

/// By model_type, or null.
const Architecture* find_architecture(std::string_view model_type);
/// By general.architecture, the first that has it, or null. `experts`: the file says how many experts it has.
const Architecture* architecture_of_file(std::string_view name, bool experts = false);
/// "llama, mistral, ...".
std::string architecture_names();

/// Names of whole tensors, or nothing where the family has none of that name.
std::optional<std::string> gguf_name(const Architecture& architecture, std::string_view model_name);
std::optional<std::string> model_name(const Architecture& architecture, std::string_view gguf_name);

/// What a tensor of the model is to one of the file.
enum class Piece {
  whole,         ///< all of it
  part,          ///< one of several along the slowest dimension: an expert, the norm of a head
  stack,         ///< all parts
  first_halves,  ///< each part is the first half of the rows of one of these: gate of gate_up
  second_halves
};
struct Place {
  std::string name;  ///< of the file's tensor
  Piece piece = Piece::whole;
  std::uint64_t part = 0;  ///< for Piece::part
};
/// Where a tensor of the model goes: nowhere, to one tensor or to two.
std::vector<Place> places_of(const Architecture& architecture, std::string_view model_name);
/// The model's name of one part of a tensor of the file, or nothing where its parts have none of their own.
std::optional<std::string> part_name(const Architecture& architecture, std::string_view gguf_name, std::uint64_t part);
/// Whether a tensor of the model, without a place in the file, says nothing that the file must: buffers.
bool is_buffer(std::string_view model_name);
/// Whether a tensor belongs to what stands before the language model: the encoder of images.
bool is_of_images(const Architecture& architecture, std::string_view model_name);
/// Whether the model stores this matrix of the file transposed.
bool is_transposed(const Architecture& architecture, std::string_view gguf_name);

/// Whether the rows of this tensor are in another order, and with the number of which heads.
enum class Rows { in_order, query_heads, key_heads, fused_heads };
Rows rows_of(const Architecture& architecture, std::string_view gguf_name);

/// The row of the model that row `row` of the file holds, for heads of `head` rows: row 2 i + j of a head is the
/// model's j * head / 2 + i. And the inverse.
std::uint64_t model_row(std::uint64_t row, std::uint64_t head);
std::uint64_t file_row(std::uint64_t row, std::uint64_t head);
/// The row of the file where row `row` of the model is, for heads whose q, k and v of `head` rows follow each other in
/// the model: the file has all of q first, then k, then v.
std::uint64_t unfused_row(std::uint64_t row, std::uint64_t heads, std::uint64_t head);

}  // namespace quant::gguf
