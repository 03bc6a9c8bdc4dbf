// Encoding into the block formats of GGUF files (quant/block_format.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "quant/block_format.h"

namespace quant {

enum class BlockEncoder {
  search,    ///< least sum of importance * squared error
  reference  ///< the bytes of ggml's own encoder, built for x86-64 without fused multiply-add (ggml_quantize_chunk)
};

/// True for formats that encode_blocks makes: all of block_formats() but NVFP4.
bool can_encode(BlockType type);

/// Codes whole rows of `cols` weights, a multiple of the block's: weights.size() is rows * cols, out.size()
/// block_bytes(type, weights.size()). `importance`: how much the squared error of each weight counts, one number >= 0
/// for each column, or for each weight, or empty. What the reference encoder has no use for is not looked at with it
/// (Q8_0, TQ, MXFP4). The same bytes for every instruction set and however rows are divided over calls. F16 and BF16
/// round to nearest even. Throws Error{usage} for sizes that do not fit and formats that are not encoded. Weights are
/// finite: see find_non_finite.
void encode_blocks(BlockType type, std::span<const float> weights, std::uint64_t cols,
                   std::span<const float> importance, BlockEncoder encoder, std::span<std::byte> out);

/// The same with the kernels of one instruction set ("scalar", "avx2", "avx512"), for tests. Throws Error{usage} for
/// one that this processor lacks.
void encode_blocks(BlockType type, std::span<const float> weights, std::uint64_t cols,
                   std::span<const float> importance, BlockEncoder encoder, std::span<std::byte> out,
                   std::string_view isa);

}  // namespace quant
