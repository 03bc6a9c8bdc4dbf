#include "layouts/stored/transposed.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "layouts/stored/tensor_parts.h"
#include "quant/error.h"

namespace quant::stored {
namespace {

std::uint16_t half_of(float scale, const LinearShape& linear) {
  const std::uint16_t half = f32_to_f16(scale);
  const float back = f16_to_f32(half);
  if (std::isfinite(back) && (back != 0 || scale == 0)) return half;
  throw Error(
      ErrorCode::numerical,
      fmt::format("{}: the scale {} has no place in float16, in which this layout stores scales", linear.module, scale),
      "another layout keeps the model's own type of scales", "ScaleRange");
}

}  // namespace

void write_transposed_scales(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                             std::size_t place, StoredBytesSink& sink) {
  std::vector<std::uint16_t> run(slice.rows);
  for (std::uint64_t g = 0; g < slice.grid.cols; ++g) {
    for (std::uint64_t r = 0; r < slice.rows; ++r) run[r] = half_of(slice.scales[r * slice.grid.cols + g], linear);
    sink.write(place, (g * linear.rows + first_row) * 2, std::as_bytes(std::span(run)));
  }
}

void read_transposed_scales(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t stride,
                            std::uint64_t first_row, QuantizedTensor& out) {
  std::vector<float> run(out.rows);
  for (std::uint64_t g = 0; g < out.grid.cols; ++g) {
    read_floats(checkpoint, info, g * stride + first_row, run);
    for (std::uint64_t r = 0; r < out.rows; ++r) out.scales[r * out.grid.cols + g] = run[r];
  }
}

std::optional<std::string> why_no_plain_groups(const Scheme& scheme, const LinearShape& linear, std::string_view layout,
                                               std::string_view other_layouts) {
  if (!scheme.weights) return std::string("weights: the scheme quantizes no weights");
  const QuantArgs& args = *scheme.weights;
  if (args.type != NumberType::integer) {
    return fmt::format("weights: {} holds whole numbers, not {}; use --layout {}", layout, describe(args),
                       other_layouts);
  }
  if (scheme.input_activations || scheme.output_activations) {
    return fmt::format("input_activations: {} holds weights alone and leaves inputs float; use --layout {}", layout,
                       "compressed-tensors");
  }
  if (has_real_zero_points(args) || args.outlier_percent > 0 || args.sensitive_percent > 0) {
    return fmt::format("weights: {} has no place for {}; use --layout libquant", layout,
                       has_real_zero_points(args) ? "zero points that are real numbers" : "a sparse part");
  }
  if (args.strategy != Strategy::group && args.strategy != Strategy::channel) {
    return fmt::format("weights: {} has scales of groups or of rows (strategy group or channel), not of strategy {}",
                       layout, to_string(args.strategy));
  }
  if (args.scale_dtype && *args.scale_dtype != DType::F16) {
    return fmt::format("weights: scales of {} are float16, not {}; leave scale_dtype out", layout,
                       dtype_name(*args.scale_dtype));
  }
  if (args.zp_dtype && *args.zp_dtype != DType::I8) {
    return fmt::format("weights: zero points of {} are codes; leave zp_dtype out", layout);
  }
  if (!is_floating(linear.dtype)) {
    return fmt::format("{} holds {}, not real numbers", linear.module, dtype_name(linear.dtype));
  }
  if (args.strategy == Strategy::group && linear.cols % static_cast<std::uint64_t>(*args.group_size) != 0) {
    return fmt::format(
        "weights: group_size {} does not divide the {} columns of {}, and kernels of {} read whole groups; choose "
        "another size, strategy channel, or put it on the ignore list",
        *args.group_size, linear.cols, linear.module, layout);
  }
  return std::nullopt;
}

void check_slice(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row, std::uint64_t alignment,
                 const QuantizedTensor& slice) {
  const std::uint64_t end = checked_add(first_row, slice.rows, "rows");
  const ScaleGrid grid = scale_grid(args, slice.rows, slice.cols);
  const bool place = slice.cols == linear.cols && slice.rows > 0 && end <= linear.rows && first_row % alignment == 0 &&
                     (end == linear.rows || slice.rows % alignment == 0);
  const bool sizes = slice.args.num_bits == args.num_bits && slice.args.symmetric == args.symmetric &&
                     slice.codes.size() == slice.rows * slice.cols && slice.grid == grid &&
                     slice.scales.size() == grid.count() &&
                     slice.zero_points.size() == (args.symmetric ? 0 : grid.count());
  if (place && sizes) return;
  throw Error(ErrorCode::internal, fmt::format("{}: rows {} to {} cannot be stored so", linear.module, first_row, end));
}

void check_read(const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count, std::uint64_t alignment) {
  const std::uint64_t rows = linear.shape.rows;
  if (count != 0 && first_row <= rows && count <= rows - first_row && first_row % alignment == 0) return;
  throw Error(ErrorCode::internal, fmt::format("{}: rows {}..{} of {} cannot be read", linear.shape.module, first_row,
                                               first_row + count, rows));
}

QuantArgs grouped_args(unsigned bits, bool symmetric, std::uint64_t group) {
  QuantArgs args;
  args.num_bits = static_cast<int>(bits);
  args.symmetric = symmetric;
  args.strategy = group == 0 ? Strategy::channel : Strategy::group;
  if (group != 0) args.group_size = static_cast<std::int64_t>(group);
  return args;
}

std::uint64_t group_columns(const QuantArgs& args, std::uint64_t cols) {
  return args.strategy == Strategy::group ? static_cast<std::uint64_t>(*args.group_size) : cols;
}

std::optional<std::uint64_t> fitting_group(std::int64_t label, std::uint64_t cols, std::uint64_t groups) {
  if (groups == 0 || groups > cols) return std::nullopt;
  if (label > 0) {
    const auto size = static_cast<std::uint64_t>(label);
    if (cols / size + (cols % size != 0 ? 1 : 0) == groups && size <= cols) return size;
  }
  if (groups == 1) return 0;
  if (cols % groups != 0) return std::nullopt;
  return cols / groups;
}

DType weight_dtype(const Checkpoint& checkpoint) {
  const auto plain = [](DType type) { return type == DType::F32 || type == DType::F16 || type == DType::BF16; };
  if (const auto said = checkpoint.config().dtype; said && plain(*said)) return *said;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    const bool part = tensor.name.ends_with(".scales") || tensor.name.ends_with("zeros");
    if (plain(tensor.dtype) && !part) return tensor.dtype;
  }
  return DType::F16;
}

}  // namespace quant::stored
