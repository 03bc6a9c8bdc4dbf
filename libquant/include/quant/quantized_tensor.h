// The result of quantizing one matrix, unpacked: what every algorithm makes and every layout stores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/scheme.h"

namespace quant {

/// Scales that are themselves coded (QuantArgs::double_quant), as bitsandbytes does: the n scales of a tensor in
/// row-major order, less `offset`, in blocks of 256 with an 8-bit code into `map` and a scale each:
///   scale[i] = map[codes[i]] * scales[i / 256] + offset, rounded to float32 after each operation.
struct CodedScales {
  static constexpr std::uint64_t kBlock = 256;
  std::vector<std::uint8_t> codes;  ///< [n]
  std::vector<float> scales;        ///< [ceil(n / 256)]
  std::vector<float> map;           ///< [256], ascending
  float offset = 0;

  bool empty() const { return codes.empty(); }
};

/// Weights that are stored apart, as compressed sparse rows. The matrix's value there is that of the dense slot plus
/// the number stored here.
struct SparseRows {
  std::uint64_t first = 0;             ///< entries of the whole matrix before this slice
  std::vector<std::uint64_t> starts;   ///< [rows + 1]: row r has entries starts[r]..starts[r + 1]; starts[0] is 0
  std::vector<std::uint32_t> columns;  ///< ascending within a row
  std::vector<float> values;           ///< to be added; only values of `dtype`
  DType dtype = DType::F32;            ///< in which values are stored

  bool empty() const { return starts.empty(); }
};

/// A quantized matrix [rows, cols] = [out_features, in_features], or a slice of whole rows of one.
///
/// Its value is defined by dequantize_row and by nothing else:
///   integer:  w = (code - zero_point) * scale
///   floating: w = element(code) * scale            (NVFP4: element(code) * (scale / global_scale))
///   codebook: w = codebook[code] * scale if fixed, codebook[unit][code] if learned
///   plain:    w = plain[r, c]
///   block:    w = what decode_blocks makes of `blocks`, which codes and scales are a part of
/// with scale = scales[unit], unit = [r / grid.row_extent][g], g = group_index[c] or c / grid.col_extent; flat: unit =
/// (r * cols + c) / grid.flat. Where `sparse` has an entry its value is added. All in float32.
struct QuantizedTensor {
  QuantArgs args;
  DType scale_dtype =
      DType::F32;  ///< type in which scales (or learned codebooks) are stored; they hold only its values
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  ScaleGrid grid;                         ///< of this slice
  std::vector<std::int8_t> codes;         ///< [rows, cols], one per weight; floating types and codebooks: the bits;
                                          ///< empty for plain numbers
  std::vector<float> scales;              ///< [grid.rows, grid.cols]; never zero or NaN; empty for learned codebooks
  std::vector<std::int8_t> zero_points;   ///< [grid.rows, grid.cols], or empty if symmetric or real
  std::vector<float> real_zero_points;    ///< [grid.rows, grid.cols] where zp_dtype is a floating type, else empty
  std::vector<float> codebook;            ///< [grid.rows, grid.cols, 2^bits] if learned, [2^bits] if fixed, else empty
  CodedScales coded_scales;               ///< with double_quant: what `scales` are computed from
  std::vector<std::byte> blocks;          ///< [rows, block_bytes(cols)] of type block; no codes and scales then
  SparseRows sparse;                      ///< with outlier_percent or sensitive_percent
  std::vector<float> plain;               ///< [rows, cols] for NumberType::plain: values of scale_dtype; else empty
  std::vector<std::uint8_t> mask;         ///< [rows, cols] of a pruned matrix: 1 kept, 0 removed, where w = 0; or empty
  std::uint64_t kept_before = 0;          ///< with mask: weights that are kept in the rows before this slice
  std::vector<std::int32_t> group_index;  ///< [cols], or empty: columns are grouped in order
  float global_scale = 1.0F;              ///< NVFP4 only

  // How the linear's inputs are quantized, where that was calibrated (static_activation_scale). Not part of the value.
  float input_scale = 0;             ///< static scale, a value of the type it is stored in; 0: none
  float input_global_scale = 0;      ///< NVFP4: what scales of groups are multiplied by; 0: none
  std::int8_t input_zero_point = 0;  ///< with input_scale

  /// Sets the sizes for a slice of `rows` rows; contents are unspecified. Keeps capacity, so reuse is cheap.
  void resize(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);
};

/// Throws Error{usage} naming the first array whose size, or group index or sparse entry whose value, contradicts the
/// rest: what resize() and a layout's read_rows never make, and a program by hand may.
void check_sizes(const QuantizedTensor& tensor);

/// Fills tensor.scales from tensor.coded_scales.
void decode_scales(QuantizedTensor& tensor);

/// Rows [first, first + count) as a tensor of their own; `first` is a multiple of scale_row_alignment.
QuantizedTensor slice_of(const QuantizedTensor& whole, std::uint64_t first, std::uint64_t count);
/// The inverse: puts `slice` into rows [first, first + slice.rows) of `whole`. Slices are given in order, starting with
/// first = 0, which sets the sizes of `whole` to `rows` rows.
void put_slice(const QuantizedTensor& slice, std::uint64_t first, std::uint64_t rows, QuantizedTensor& whole);

/// Row `row` as float32 values. out.size() == cols.
void dequantize_row(const QuantizedTensor& tensor, std::uint64_t row, std::span<float> out);

}  // namespace quant
