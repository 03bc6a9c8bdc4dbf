#include "quant/quantized_tensor.h"

#include <algorithm>
#include <array>

#include "quant/error.h"

namespace quant {
namespace {

std::array<float, 256> make_element_table(float (*decode)(std::uint8_t)) {
  std::array<float, 256> table{};
  for (unsigned i = 0; i < 256; ++i) table[i] = decode(static_cast<std::uint8_t>(i));
  return table;
}

const std::array<float, 256>& element_table(DType type) {
  static const auto e4m3 = make_element_table(e4m3_to_f32);
  static const auto e5m2 = make_element_table(e5m2_to_f32);
  static const auto e2m1 = make_element_table(e2m1_to_f32);
  return type == DType::F4 ? e2m1 : type == DType::F8_E5M2 ? e5m2 : e4m3;
}

// Columns [first, first + count) of a row, which share the scale at `scale_index`.
void dequantize_span(const QuantizedTensor& tensor, std::uint64_t row, std::size_t first, std::size_t count,
                     std::size_t scale_index, std::span<float> out) {
  const std::int8_t* codes = tensor.codes.data() + row * tensor.cols;
  const float stored = tensor.scales[scale_index];
  const float scale = is_nvfp4(tensor.args) ? stored / tensor.global_scale : stored;
  if (tensor.args.type == NumberType::floating) {
    const auto& elements = element_table(element_dtype(tensor.args));
    for (std::size_t c = first; c < first + count; ++c) out[c] = elements[static_cast<std::uint8_t>(codes[c])] * scale;
    return;
  }
  const int zero = tensor.zero_points.empty() ? 0 : tensor.zero_points[scale_index];
  for (std::size_t c = first; c < first + count; ++c) out[c] = static_cast<float>(codes[c] - zero) * scale;
}

}  // namespace

void QuantizedTensor::resize(const QuantArgs& new_args, std::uint64_t new_rows, std::uint64_t new_cols) {
  args = new_args;
  rows = new_rows;
  cols = new_cols;
  grid = scale_grid(new_args, new_rows, new_cols);
  codes.resize(new_rows * new_cols);
  scales.resize(grid.rows * grid.cols);
  zero_points.resize(new_args.symmetric ? 0 : grid.rows * grid.cols);
  group_index.clear();
  global_scale = 1.0F;
}

void dequantize_row(const QuantizedTensor& tensor, std::uint64_t row, std::span<float> out) {
  if (row >= tensor.rows || out.size() != tensor.cols) {
    throw Error(ErrorCode::internal, "row " + std::to_string(row) + " of " + std::to_string(tensor.rows) +
                                         " cannot be dequantized into " + std::to_string(out.size()) + " values");
  }
  const std::size_t scale_row = row / tensor.grid.row_extent * tensor.grid.cols;
  if (!tensor.group_index.empty()) {
    for (std::size_t c = 0; c < tensor.cols; ++c) {
      dequantize_span(tensor, row, c, 1, scale_row + static_cast<std::size_t>(tensor.group_index[c]), out);
    }
    return;
  }
  for (std::size_t c = 0, g = 0; c < tensor.cols; c += tensor.grid.col_extent, ++g) {
    dequantize_span(tensor, row, c, std::min(tensor.grid.col_extent, tensor.cols - c), scale_row + g, out);
  }
}

}  // namespace quant
