// A quantized matrix repacked for the kernels.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/packed/packed_table.h"
#include "packed/aligned_buffer.h"
#include "quant/quantized_tensor.h"

namespace quant::packed {

/// Which column of the matrix each packed column holds, so that columns that share a scale are side by side and fill
/// whole chunks, or halves of one.
struct ColumnPlan {
  std::uint64_t columns = 0;         ///< packed, a multiple of 32
  std::uint64_t groups = 1;          ///< of the matrix per row; padding may add more
  std::uint64_t group_columns = 0;   ///< packed columns per scale: 16, or a multiple of 32
  std::vector<std::int32_t> source;  ///< [columns], -1 for padding; empty: in order, padding at the end
};
/// Nothing where padding would double the work.
std::optional<ColumnPlan> plan_columns(const QuantizedTensor& weight);

/// The place of the scale of a row and a group of a matrix that plan_columns takes.
std::uint64_t unit_of(const QuantizedTensor& weight, std::uint64_t row, std::uint64_t group);
/// All scales, real zero points and tables are numbers that kernels may move by powers of two.
bool usual_numbers(const QuantizedTensor& weight);

struct PackedMatrix {
  cpu::PackedShape shape{};
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;         ///< packed
  std::uint64_t strips = 0;          ///< even
  std::vector<std::int32_t> source;  ///< as in ColumnPlan
  float factor = 1;                  ///< that results are multiplied by (NVFP4's global scale)
  bool int8 = false;                 ///< the int8 kernels take it
  AlignedBuffer codes, scales, zeros;
  AlignedBuffer table;  ///< of codebooks of more than 4 bits; shape refers to it

  std::uint64_t bytes() const {
    return codes.taken() + scales.taken() + zeros.taken() + table.taken() + source.size() * sizeof(source[0]);
  }
  cpu::PackedStrip strip(std::uint64_t index) const;
};

/// The most bytes that pack_matrix makes of a matrix like `frame`, which has no codes, scales and zero points; of a
/// codebook the size counts. Nothing if it makes nothing of any.
std::optional<std::uint64_t> packed_matrix_bytes(const QuantizedTensor& frame);

/// Nothing if no kernel reads such codes. The sparse part is not included.
std::optional<PackedMatrix> pack_matrix(const QuantizedTensor& weight, int threads);

}  // namespace quant::packed
