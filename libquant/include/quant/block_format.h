// The block formats of GGUF files: fixed numbers of weights that follow each other in a row, packed with scales of
// their own. Source of all layouts: ggml (ggml-common.h, ggml-quants.c); docs/gguf.md has them as tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace quant {

/// The numbers that tensor infos of GGUF files hold. f32, f16 and bf16 are "blocks" of one weight.
enum class BlockType : std::uint8_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40
};

struct BlockFormat {
  BlockType type;
  std::string_view name;  ///< "Q4_K", as llama.cpp spells it
  std::uint32_t weights;  ///< in a block
  std::uint32_t bytes;    ///< of a block
  int code_bits;          ///< of the widest code

  double bits_per_weight() const { return 8.0 * bytes / weights; }
};

/// All formats that this library reads, by number.
std::span<const BlockFormat> block_formats();
const BlockFormat& block_format(BlockType type);
/// By the number in a file, or by name in any case; null for those that this library does not know.
const BlockFormat* find_block_format(std::uint32_t number);
const BlockFormat* find_block_format(std::string_view name);
/// The name of a type that files hold and this library does not decode ("IQ2_XS"), or empty for a number that no
/// version of ggml has used.
std::string_view undecoded_block_name(std::uint32_t number);

/// Bytes of `weights` weights, a multiple of the block's. Throws Error{corrupt_file, "ValidationOverflow"} past 64
/// bits.
std::uint64_t block_bytes(BlockType type, std::uint64_t weights);

/// The values of whole blocks: blocks.size() == block_bytes(type, out.size()). Every byte pattern has a meaning (NaN
/// and infinite scales give such values). In float32, each operation rounded, in the order of ggml's formulas:
///   Q4_0 d*(q-8)  Q4_1 d*q+m  Q2_K Q4_K Q5_K (d*sc)*q - dmin*m  Q3_K (d*(sc-32))*(q-4)  Q6_K (d*sc)*(q-32)  ...
void decode_blocks(BlockType type, std::span<const std::byte> blocks, std::span<float> out);

/// The 16 values of IQ4_NL and IQ4_XS, ascending.
std::span<const std::int8_t> iq4_values();

}  // namespace quant
