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

void dequantize_codebook(const QuantizedTensor& tensor, std::span<const std::int8_t> codes, std::size_t unit,
                         std::span<float> out) {
  const bool learned = has_learned_codebook(tensor.args);
  const float* table = tensor.codebook.data() + (learned ? unit << tensor.args.num_bits : 0);
  const auto mask = static_cast<std::uint8_t>((1U << static_cast<unsigned>(tensor.args.num_bits)) - 1U);
  if (learned) {
    for (std::size_t i = 0; i < codes.size(); ++i) out[i] = table[static_cast<std::uint8_t>(codes[i]) & mask];
    return;
  }
  const float scale = tensor.scales[unit];
  for (std::size_t i = 0; i < codes.size(); ++i) out[i] = table[static_cast<std::uint8_t>(codes[i]) & mask] * scale;
}

// Weights side by side in a row, which share what belongs to `unit`.
void dequantize_span(const QuantizedTensor& tensor, std::span<const std::int8_t> codes, std::size_t unit,
                     std::span<float> out) {
  if (tensor.args.type == NumberType::codebook) return dequantize_codebook(tensor, codes, unit, out);
  const float stored = tensor.scales[unit];
  const float scale = is_nvfp4(tensor.args) ? stored / tensor.global_scale : stored;
  if (tensor.args.type == NumberType::floating) {
    const auto& elements = element_table(element_dtype(tensor.args));
    for (std::size_t i = 0; i < codes.size(); ++i) out[i] = elements[static_cast<std::uint8_t>(codes[i])] * scale;
    return;
  }
  if (!tensor.real_zero_points.empty()) {
    const float zero = tensor.real_zero_points[unit];
    for (std::size_t i = 0; i < codes.size(); ++i) out[i] = (static_cast<float>(codes[i]) - zero) * scale;
    return;
  }
  const int zero = tensor.zero_points.empty() ? 0 : tensor.zero_points[unit];
  for (std::size_t i = 0; i < codes.size(); ++i) out[i] = static_cast<float>(codes[i] - zero) * scale;
}

void dequantize_dense(const QuantizedTensor& tensor, std::uint64_t row, std::span<float> out) {
  if (is_plain(tensor.args)) {
    std::copy_n(tensor.plain.begin() + static_cast<std::ptrdiff_t>(row * tensor.cols), tensor.cols, out.begin());
    return;
  }
  if (has_blocks(tensor.args)) {
    const std::uint64_t bytes = block_bytes(*tensor.args.block, tensor.cols);
    return decode_blocks(*tensor.args.block, std::span(tensor.blocks).subspan(row * bytes, bytes), out);
  }
  const auto codes = std::span(tensor.codes).subspan(row * tensor.cols, tensor.cols);
  if (tensor.grid.flat != 0) {
    const std::uint64_t begin = row * tensor.cols;
    for (std::uint64_t c = 0; c < tensor.cols;) {
      const std::uint64_t unit = (begin + c) / tensor.grid.flat;
      const std::uint64_t count = std::min(tensor.cols - c, (unit + 1) * tensor.grid.flat - (begin + c));
      dequantize_span(tensor, codes.subspan(c, count), unit, out.subspan(c, count));
      c += count;
    }
    return;
  }
  const std::size_t scale_row = row / tensor.grid.row_extent * tensor.grid.cols;
  if (!tensor.group_index.empty()) {
    for (std::size_t c = 0; c < tensor.cols; ++c) {
      const auto group = static_cast<std::size_t>(tensor.group_index[c]);
      dequantize_span(tensor, codes.subspan(c, 1), scale_row + group, out.subspan(c, 1));
    }
    return;
  }
  for (std::size_t c = 0, g = 0; c < tensor.cols; c += tensor.grid.col_extent, ++g) {
    const std::size_t count = std::min<std::size_t>(tensor.grid.col_extent, tensor.cols - c);
    dequantize_span(tensor, codes.subspan(c, count), scale_row + g, out.subspan(c, count));
  }
}

template <class Value>
void copy_part(const std::vector<Value>& from, std::uint64_t first, std::uint64_t count, std::vector<Value>& to) {
  if (from.empty()) {
    to.clear();
    return;
  }
  const auto begin = from.begin() + static_cast<std::ptrdiff_t>(first);
  to.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
}

template <class Value>
void put_part(const std::vector<Value>& from, std::uint64_t first, std::vector<Value>& to) {
  if (from.empty()) return;  // then `to` may have no memory to point into
  std::copy(from.begin(), from.end(), to.begin() + static_cast<std::ptrdiff_t>(first));
}

void slice_sparse(const SparseRows& whole, std::uint64_t first, std::uint64_t count, SparseRows& slice) {
  if (whole.empty()) return;
  slice.dtype = whole.dtype;
  const std::uint64_t begin = whole.starts[first];
  slice.first = whole.first + begin;
  slice.starts.resize(count + 1);
  for (std::uint64_t r = 0; r <= count; ++r) slice.starts[r] = whole.starts[first + r] - begin;
  copy_part(whole.columns, begin, slice.starts.back(), slice.columns);
  copy_part(whole.values, begin, slice.starts.back(), slice.values);
}

void append_sparse(const SparseRows& slice, SparseRows& whole) {
  if (slice.empty()) return;
  if (whole.starts.empty()) {
    whole.starts.push_back(0);
    whole.first = slice.first;
    whole.dtype = slice.dtype;
  }
  const std::uint64_t before = whole.starts.back();
  for (std::size_t r = 1; r < slice.starts.size(); ++r) whole.starts.push_back(before + slice.starts[r]);
  whole.columns.insert(whole.columns.end(), slice.columns.begin(), slice.columns.end());
  whole.values.insert(whole.values.end(), slice.values.begin(), slice.values.end());
}

std::uint64_t block_row_bytes(const QuantArgs& args, std::uint64_t cols) {
  return has_blocks(args) ? block_bytes(*args.block, cols) : 0;
}

void size_coded_scales(const QuantizedTensor& tensor, CodedScales& coded) {
  const std::uint64_t count = tensor.args.double_quant ? tensor.scales.size() : 0;
  coded.codes.resize(count);
  coded.scales.resize((count + CodedScales::kBlock - 1) / CodedScales::kBlock);
}

bool has_scales(const QuantArgs& args) { return has_codes(args) && !has_learned_codebook(args); }

}  // namespace

void QuantizedTensor::resize(const QuantArgs& new_args, std::uint64_t new_rows, std::uint64_t new_cols) {
  args = new_args;
  rows = new_rows;
  cols = new_cols;
  grid = scale_grid(new_args, new_rows, new_cols);
  const bool real = has_real_zero_points(new_args);
  codes.resize(has_codes(new_args) ? new_rows * new_cols : 0);
  plain.resize(is_plain(new_args) ? new_rows * new_cols : 0);
  blocks.resize(new_rows * block_row_bytes(new_args, new_cols));
  scales.resize(has_scales(new_args) ? grid.count() : 0);
  zero_points.resize(new_args.symmetric || real ? 0 : grid.count());
  real_zero_points.resize(real ? grid.count() : 0);
  if (has_learned_codebook(new_args)) {
    codebook.resize(grid.count() << static_cast<unsigned>(new_args.num_bits));
  } else {
    const auto fixed = has_fixed_codebook(new_args) ? fixed_codebook(new_args.codebook) : std::span<const float>{};
    codebook.assign(fixed.begin(), fixed.end());
  }
  size_coded_scales(*this, coded_scales);
  sparse = {};
  mask.clear();
  kept_before = 0;
  group_index.clear();
  global_scale = 1.0F;
}

void decode_scales(QuantizedTensor& tensor) {
  const CodedScales& coded = tensor.coded_scales;
  for (std::size_t i = 0; i < coded.codes.size(); ++i) {
    const float product = coded.map[coded.codes[i]] * coded.scales[i / CodedScales::kBlock];
    tensor.scales[i] = product + coded.offset;
  }
}

namespace {

void need_size(const char* name, std::uint64_t size, std::uint64_t wanted) {
  if (size == wanted) return;
  throw Error(ErrorCode::usage, std::string("a quantized tensor has ") + std::to_string(size) + " " + name + " where " +
                                    std::to_string(wanted) + " are needed");
}

void check_sparse(const QuantizedTensor& tensor) {
  const SparseRows& sparse = tensor.sparse;
  if (sparse.empty()) return;
  need_size("sparse starts", sparse.starts.size(), tensor.rows + 1);
  need_size("sparse columns", sparse.columns.size(), sparse.values.size());
  const bool ascending = std::is_sorted(sparse.starts.begin(), sparse.starts.end()) && sparse.starts.front() == 0;
  if (!ascending || sparse.starts.back() != sparse.values.size()) {
    throw Error(ErrorCode::usage, "the sparse starts of a quantized tensor do not ascend from 0 to the number of its " +
                                      std::to_string(sparse.values.size()) + " sparse values");
  }
  for (const std::uint32_t column : sparse.columns) {
    if (column < tensor.cols) continue;
    throw Error(ErrorCode::usage, "a sparse value of a quantized tensor is in column " + std::to_string(column) +
                                      " of " + std::to_string(tensor.cols));
  }
}

}  // namespace

void check_sizes(const QuantizedTensor& tensor) {
  const QuantArgs& args = tensor.args;
  const std::uint64_t units = tensor.grid.count();
  const std::uint64_t weights = checked_mul(tensor.rows, tensor.cols, "a quantized tensor");
  if (!tensor.mask.empty()) need_size("places of a mask", tensor.mask.size(), weights);
  need_size("codes", tensor.codes.size(), has_codes(args) ? weights : 0);
  need_size("plain values", tensor.plain.size(), is_plain(args) ? weights : 0);
  if (has_blocks(args)) {
    need_size("bytes of blocks", tensor.blocks.size(), tensor.rows * block_row_bytes(args, tensor.cols));
    need_size("columns after whole blocks", tensor.cols % block_format(*args.block).weights, 0);
    return;
  }
  if (weights == 0) return;  // nothing else is read
  if (!(tensor.grid == scale_grid(args, tensor.rows, tensor.cols))) {
    throw Error(ErrorCode::usage, "the grid of a quantized tensor is not that of its arguments and shape");
  }
  need_size("scales", tensor.scales.size(), has_scales(args) ? units : 0);
  const bool real = has_real_zero_points(args);
  need_size("zero points", tensor.zero_points.size(), args.symmetric || real ? 0 : units);
  need_size("real zero points", tensor.real_zero_points.size(), real ? units : 0);
  if (args.type == NumberType::codebook) {
    const std::uint64_t values = std::uint64_t{1} << static_cast<unsigned>(args.num_bits);
    need_size("values in codebooks", tensor.codebook.size(), has_learned_codebook(args) ? units * values : values);
  }
  if (!tensor.group_index.empty()) need_size("group indices", tensor.group_index.size(), tensor.cols);
  for (const std::int32_t group : tensor.group_index) {
    if (group >= 0 && static_cast<std::uint64_t>(group) < tensor.grid.cols) continue;
    throw Error(ErrorCode::usage, "a group index of a quantized tensor is " + std::to_string(group) +
                                      " where there are " + std::to_string(tensor.grid.cols) + " groups");
  }
  check_sparse(tensor);
}

QuantizedTensor slice_of(const QuantizedTensor& whole, std::uint64_t first, std::uint64_t count) {
  QuantizedTensor slice;
  slice.resize(whole.args, count, whole.cols);
  slice.scale_dtype = whole.scale_dtype;
  slice.global_scale = whole.global_scale;
  slice.group_index = whole.group_index;
  slice.input_scale = whole.input_scale;
  slice.input_global_scale = whole.input_global_scale;
  slice.input_zero_point = whole.input_zero_point;
  if (has_codes(whole.args)) copy_part(whole.codes, first * whole.cols, count * whole.cols, slice.codes);
  const std::uint64_t row_bytes = block_row_bytes(whole.args, whole.cols);
  copy_part(whole.blocks, first * row_bytes, count * row_bytes, slice.blocks);
  const std::uint64_t unit = first_scale(whole.args, first, whole.cols);
  const std::uint64_t units = slice.grid.count();
  copy_part(whole.scales, unit, units, slice.scales);
  copy_part(whole.zero_points, unit, units, slice.zero_points);
  copy_part(whole.real_zero_points, unit, units, slice.real_zero_points);
  if (has_learned_codebook(whole.args)) {
    const auto bits = static_cast<unsigned>(whole.args.num_bits);
    copy_part(whole.codebook, unit << bits, units << bits, slice.codebook);
  }
  copy_part(whole.coded_scales.codes, unit, units, slice.coded_scales.codes);
  copy_part(whole.coded_scales.scales, unit / CodedScales::kBlock, slice.coded_scales.scales.size(),
            slice.coded_scales.scales);
  slice.coded_scales.map = whole.coded_scales.map;
  slice.coded_scales.offset = whole.coded_scales.offset;
  slice_sparse(whole.sparse, first, count, slice.sparse);
  if (is_plain(whole.args)) copy_part(whole.plain, first * whole.cols, count * whole.cols, slice.plain);
  copy_part(whole.mask, first * whole.cols, count * whole.cols, slice.mask);
  if (!whole.mask.empty()) {
    const auto before = whole.mask.begin() + static_cast<std::ptrdiff_t>(first * whole.cols);
    slice.kept_before = whole.kept_before + static_cast<std::uint64_t>(std::count(whole.mask.begin(), before, 1));
  }
  return slice;
}

void put_slice(const QuantizedTensor& slice, std::uint64_t first, std::uint64_t rows, QuantizedTensor& whole) {
  if (first == 0) {
    whole.resize(slice.args, rows, slice.cols);
    whole.scale_dtype = slice.scale_dtype;
    whole.global_scale = slice.global_scale;
    whole.group_index = slice.group_index;
    whole.input_scale = slice.input_scale;
    whole.input_global_scale = slice.input_global_scale;
    whole.input_zero_point = slice.input_zero_point;
    whole.coded_scales.map = slice.coded_scales.map;
    whole.coded_scales.offset = slice.coded_scales.offset;
  }
  put_part(slice.codes, first * slice.cols, whole.codes);
  put_part(slice.blocks, first * block_row_bytes(slice.args, slice.cols), whole.blocks);
  const std::uint64_t unit = first_scale(slice.args, first, slice.cols);
  put_part(slice.scales, unit, whole.scales);
  put_part(slice.zero_points, unit, whole.zero_points);
  put_part(slice.real_zero_points, unit, whole.real_zero_points);
  if (has_learned_codebook(slice.args)) {
    put_part(slice.codebook, unit << static_cast<unsigned>(slice.args.num_bits), whole.codebook);
  }
  put_part(slice.coded_scales.codes, unit, whole.coded_scales.codes);
  put_part(slice.coded_scales.scales, unit / CodedScales::kBlock, whole.coded_scales.scales);
  append_sparse(slice.sparse, whole.sparse);
  if (is_plain(slice.args)) put_part(slice.plain, first * slice.cols, whole.plain);
  if (first == 0) {
    whole.mask.resize(slice.mask.empty() ? 0 : rows * slice.cols);
    whole.kept_before = slice.kept_before;
  }
  put_part(slice.mask, first * slice.cols, whole.mask);
}

void dequantize_row(const QuantizedTensor& tensor, std::uint64_t row, std::span<float> out) {
  if (row >= tensor.rows || out.size() != tensor.cols) {
    throw Error(ErrorCode::internal, "row " + std::to_string(row) + " of " + std::to_string(tensor.rows) +
                                         " cannot be dequantized into " + std::to_string(out.size()) + " values");
  }
  dequantize_dense(tensor, row, out);
  if (tensor.sparse.empty()) return;
  for (std::uint64_t i = tensor.sparse.starts[row]; i < tensor.sparse.starts[row + 1]; ++i) {
    out[tensor.sparse.columns[i]] += tensor.sparse.values[i];
  }
}

}  // namespace quant
