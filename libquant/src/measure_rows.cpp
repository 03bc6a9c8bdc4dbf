#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/metrics.h"
#include "quant/weight_rows.h"

namespace quant {
namespace {

struct Scratch {
  std::vector<float> row, scales, zero_points, values;
};

void check_sizes(const TensorView& weight, const QuantizedTensor& quantized, const SliceErrors& errors) {
  if (weight.rows() == quantized.rows && weight.cols() == quantized.cols && errors.rows.size() == quantized.rows)
    return;
  throw Error(ErrorCode::internal, "a weight " + to_string(weight.shape) +
                                       " cannot be measured against a quantized matrix [" +
                                       std::to_string(quantized.rows) + ", " + std::to_string(quantized.cols) +
                                       "] into " + std::to_string(errors.rows.size()) + " rows");
}

// Largest magnitude of a weight that is not clipped, and the magnitude of error that an end of the range allows.
struct ClipRule {
  bool integer;
  int code_min, code_max;
  float largest;

  bool clipped(float weight, float error, float scale, int code) const {
    constexpr float kMargin = 0.50006F;  // as in the kernels: a tie is no clipping
    if (!integer) return std::fabs(weight) > std::fabs(scale) * largest * (2 * kMargin);
    return (code == code_min || code == code_max) && std::fabs(error) > std::fabs(scale) * kMargin;
  }
};

// Where the kernels do not go (codebooks, plain numbers, blocks, zero points that are real numbers, columns that are
// not grouped in order, sparse parts): value by value.
bool is_general(const QuantizedTensor& quantized) {
  return quantized.args.type == NumberType::codebook || !has_codes(quantized.args) ||
         !quantized.real_zero_points.empty() || !quantized.group_index.empty() || !quantized.sparse.empty();
}

std::size_t group_of(const QuantizedTensor& quantized, std::size_t column) {
  if (!quantized.group_index.empty()) return static_cast<std::size_t>(quantized.group_index[column]);
  return quantized.grid.flat != 0 ? 0 : column / quantized.grid.col_extent;
}

// Clipped weights of a row: codebooks and blocks have no range to clip to, and what is stored apart is not clipped.
std::uint64_t count_clipped(const QuantizedTensor& quantized, std::uint64_t row, const Scratch& scratch) {
  if (quantized.args.type == NumberType::codebook || !has_codes(quantized.args)) return 0;
  const std::size_t scale_row = row / quantized.grid.row_extent * quantized.grid.cols;
  const bool integer = quantized.args.type == NumberType::integer;
  const ClipRule rule{integer, code_min(quantized.args), code_max(quantized.args),
                      integer ? 0.0F : float_max(quantized.args)};
  std::uint64_t clipped = 0;
  std::uint64_t apart = quantized.sparse.empty() ? 0 : quantized.sparse.starts[row];
  const std::uint64_t apart_end = quantized.sparse.empty() ? 0 : quantized.sparse.starts[row + 1];
  for (std::size_t c = 0; c < quantized.cols; ++c) {
    if (apart < apart_end && quantized.sparse.columns[apart] == c) {
      ++apart;
      continue;
    }
    float scale = quantized.scales[scale_row + group_of(quantized, c)];
    if (is_nvfp4(quantized.args)) scale /= quantized.global_scale;
    const int code = quantized.codes[row * quantized.cols + c];
    clipped += rule.clipped(scratch.row[c], scratch.row[c] - scratch.values[c], scale, code) ? 1 : 0;
  }
  return clipped;
}

ErrorSums measure_general(const QuantizedTensor& quantized, std::uint64_t row, Scratch& scratch,
                          const SliceErrors& errors) {
  dequantize_row(quantized, row, scratch.values);
  ErrorSums sums;
  sums.count = quantized.cols;
  sums.clipped = count_clipped(quantized, row, scratch);
  for (std::size_t c = 0; c < quantized.cols; ++c) {
    const float w = scratch.row[c], v = scratch.values[c], error = w - v;
    const double noise = static_cast<double>(error) * static_cast<double>(error);
    const double signal = static_cast<double>(w) * static_cast<double>(w);
    sums.signal += signal;
    sums.noise += noise;
    sums.dot += static_cast<double>(w) * static_cast<double>(v);
    sums.recon += static_cast<double>(v) * static_cast<double>(v);
    sums.max_abs_error = std::max(sums.max_abs_error, static_cast<double>(std::fabs(error)));
    sums.zeros += v == 0 ? 1 : 0;
    const std::size_t group = group_of(quantized, c);
    if (!errors.group_signal.empty()) errors.group_signal[group] += signal;
    if (!errors.group_noise.empty()) errors.group_noise[group] += noise;
  }
  return sums;
}

// The scales and zero points of one scale row as the kernels take them.
void load_scales(const QuantizedTensor& quantized, std::uint64_t scale_row, Scratch& scratch) {
  const std::size_t first = scale_row * quantized.grid.cols;
  const bool two_level = is_nvfp4(quantized.args);
  scratch.scales.resize(quantized.grid.cols);
  scratch.zero_points.resize(quantized.zero_points.empty() ? 0 : quantized.grid.cols);
  for (std::size_t g = 0; g < quantized.grid.cols; ++g) {
    const float scale = quantized.scales[first + g];
    scratch.scales[g] = two_level ? scale / quantized.global_scale : scale;
    if (!scratch.zero_points.empty()) scratch.zero_points[g] = static_cast<float>(quantized.zero_points[first + g]);
  }
}

ErrorSums to_error_sums(const RowSums& sums, std::uint64_t count) {
  return {sums.signal, sums.noise,   sums.dot,  sums.recon, static_cast<double>(sums.max_abs_error),
          count,       sums.clipped, sums.zeros};
}

}  // namespace

void measure_rows(const TensorView& weight, const QuantizedTensor& quantized, SliceErrors errors) {
  check_sizes(weight, quantized, errors);
  if (quantized.cols == 0) return;
  static thread_local Scratch scratch;
  static thread_local std::vector<std::int8_t> codes;
  const WeightRows rows(weight);
  const bool general = is_general(quantized);
  scratch.values.resize(general ? quantized.cols : 0);
  for (std::uint64_t r = 0; r < quantized.rows; ++r) {
    if (general) {
      scratch.row.resize(quantized.cols);
      rows.read(r, 0, scratch.row);
      errors.rows[r] = measure_general(quantized, r, scratch, errors);
      continue;
    }
    if (r % quantized.grid.row_extent == 0) load_scales(quantized, r / quantized.grid.row_extent, scratch);
    const auto first = quantized.codes.begin() + static_cast<std::ptrdiff_t>(r * quantized.cols);
    codes.assign(first, first + static_cast<std::ptrdiff_t>(quantized.cols));  // the kernel's pointer is not to const
    RowSums sums{};
    kernels().measure({rows.row(r, scratch.row), rows.type(), element_of(element_dtype(quantized.args)), quantized.cols,
                       quantized.grid.col_extent, scratch.scales.data(),
                       scratch.zero_points.empty() ? nullptr : scratch.zero_points.data(),
                       static_cast<float>(code_min(quantized.args)), static_cast<float>(code_max(quantized.args)),
                       codes.data(), &sums, errors.group_signal.empty() ? nullptr : errors.group_signal.data(),
                       errors.group_noise.empty() ? nullptr : errors.group_noise.data()});
    errors.rows[r] = to_error_sums(sums, quantized.cols);
  }
}

}  // namespace quant
