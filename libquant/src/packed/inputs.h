// Inputs in the order in which the kernels read them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "packed/packed_matrix.h"
#include "quant/forward.h"

namespace quant::packed {

/// Where the columns of packed weights come from.
struct InputColumns {
  std::uint64_t cols = 0;                             ///< of the inputs
  std::uint64_t packed = 0;                           ///< with padding
  const std::vector<std::int32_t>* source = nullptr;  ///< empty: in order

  void gather(const float* row, float* out) const;
};

/// Blocks of tokens: all of `width`, or a smaller last one.
struct TokenBlocks {
  std::uint64_t tokens = 0;
  std::uint64_t width = 0;

  std::uint64_t count() const { return (tokens + width - 1) / width; }
  std::uint64_t padded() const { return count() * width; }
};

/// [blocks][packed columns][width] float32; tokens that are not there are 0.
std::vector<float> interleave(const InputColumns& columns, std::span<const float> x, TokenBlocks blocks, int threads);
/// [blocks][packed columns / 2][width] pairs of BF16.
std::vector<std::uint32_t> interleave_bf16(const InputColumns& columns, std::span<const float> x, TokenBlocks blocks,
                                           int threads);

/// Inputs as 8-bit integers. Parts are as in cpu::Int8Inputs, [blocks] of them.
struct IntegerInputs {
  std::uint64_t segment_chunks = 0;
  std::uint64_t segments = 0;
  std::vector<std::uint32_t> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;

  cpu::Int8Inputs block(std::uint64_t index, TokenBlocks blocks, std::uint64_t packed) const;
};
/// Columns of a call whose inputs stay float: LLM.int8().
struct OutlierColumns {
  float threshold = 0;
  std::vector<std::int32_t> source;   ///< columns of the inputs, in the order of their places
  std::vector<std::uint32_t> places;  ///< in the packed weights, ascending
};
/// Those that hold a magnitude of at least quantizer.args.outlier_threshold in any of the rows; none without one.
OutlierColumns find_outliers(const InputColumns& columns, std::span<const float> x, std::uint64_t rows,
                             const InputQuantizer* quantizer, int threads);
/// Their inputs, [blocks][outliers][width]; tokens that are not there are 0.
std::vector<float> interleave_outliers(const InputColumns& columns, const OutlierColumns& outliers,
                                       std::span<const float> x, TokenBlocks blocks);

/// `outliers` count as 0, and magnitudes from their threshold up do not count for the token's scale.
/// `quantizer`: one scale per token, or a static one (multiplies_as_integers); null: one per segment of a token, the
/// largest magnitude / 127.
IntegerInputs quantize_inputs(const InputColumns& columns, const cpu::PackedShape& shape, std::span<const float> x,
                              TokenBlocks blocks, const InputQuantizer* quantizer, const OutlierColumns& outliers,
                              int threads);
/// The quantizer gives symmetric 8-bit integers and one scale per token.
bool multiplies_as_integers(const InputQuantizer& quantizer);

}  // namespace quant::packed
