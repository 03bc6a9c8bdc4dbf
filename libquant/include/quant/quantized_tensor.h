// The result of quantizing one matrix, unpacked: what every algorithm makes and every layout stores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/scheme.h"

namespace quant {

/// A quantized matrix [rows, cols] = [out_features, in_features], or a slice of whole rows of one.
///
/// Its value is defined by dequantize_row and by nothing else:
///   integer:  w = (code - zero_point) * scale
///   floating: w = element(code) * scale            (NVFP4: element(code) * (scale / global_scale))
/// with scale = scales[r / grid.row_extent][g], g = group_index[c] or c / grid.col_extent, all in float32.
struct QuantizedTensor {
  QuantArgs args;
  DType scale_dtype = DType::F32;  ///< type in which scales are stored; `scales` hold only values of this type
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  ScaleGrid grid;                         ///< of this slice
  std::vector<std::int8_t> codes;         ///< [rows, cols], one per weight; floating types: the element's bits
  std::vector<float> scales;              ///< [grid.rows, grid.cols]; never zero or NaN
  std::vector<std::int8_t> zero_points;   ///< [grid.rows, grid.cols], or empty if symmetric
  std::vector<std::int32_t> group_index;  ///< [cols], or empty: columns are grouped in order
  float global_scale = 1.0F;              ///< NVFP4 only

  // How the linear's inputs are quantized, where that was calibrated (static_activation_scale). Not part of the value.
  float input_scale = 0;             ///< static scale, a value of the type it is stored in; 0: none
  float input_global_scale = 0;      ///< NVFP4: what scales of groups are multiplied by; 0: none
  std::int8_t input_zero_point = 0;  ///< with input_scale

  /// Sets the sizes for a slice of `rows` rows; contents are unspecified. Keeps capacity, so reuse is cheap.
  void resize(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);
};

/// Row `row` as float32 values. out.size() == cols.
void dequantize_row(const QuantizedTensor& tensor, std::uint64_t row, std::span<float> out);

}  // namespace quant
