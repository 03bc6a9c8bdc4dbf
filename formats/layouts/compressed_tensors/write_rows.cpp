#include "layouts/compressed_tensors/write_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "layouts/compressed_tensors/stored_parts.h"
#include "packing/pack_bits.h"
#include "quant/error.h"
#include "quant/observers.h"

namespace quant::compressed_tensors {
namespace {

constexpr std::uint64_t kScratchBytes = 256 * 1024;

/// Bytes that keep their capacity from call to call, so that packing a model allocates once per thread.
std::vector<std::byte>& scratch() {
  thread_local std::vector<std::byte> bytes;
  return bytes;
}

struct Job {
  const Scheme& scheme;
  const LinearShape& linear;
  Format format;
  const QuantArgs& args;
  std::uint64_t first_row;
  const QuantizedTensor& slice;
  StoredBytesSink& sink;
};

void require(bool ok, const Job& job, std::string_view what) {
  if (!ok) throw Error(ErrorCode::internal, fmt::format("{}: the slice to store has {}", job.linear.module, what));
}

void check_slice(const Job& job) {
  const QuantizedTensor& slice = job.slice;
  const ScaleGrid grid = scale_grid(job.args, slice.rows, slice.cols);
  const std::uint64_t alignment = slice_alignment(job.format, job.args);
  const std::uint64_t end = checked_add(job.first_row, slice.rows, "rows");
  require(slice.cols == job.linear.cols && slice.rows > 0 && end <= job.linear.rows, job, "rows outside the linear");
  require(job.first_row % alignment == 0 && (end == job.linear.rows || slice.rows % alignment == 0), job,
          "rows that do not start and end at a multiple of row_alignment");
  require(slice.args.num_bits == job.args.num_bits && slice.args.type == job.args.type, job, "another number type");
  require(slice.codes.size() == slice.rows * slice.cols, job, "a wrong number of codes");
  require(slice.scales.size() == grid.rows * grid.cols, job, "a wrong number of scales");
  require(slice.zero_points.size() == (job.args.symmetric ? 0 : grid.rows * grid.cols), job,
          "a wrong number of zero points");
  require(slice.group_index.empty() || (job.args.actorder == ActOrder::group && slice.group_index.size() == slice.cols),
          job, "a group index that the scheme has no place for");
}

void write_codes(const Job& job, std::size_t tensor) {
  const std::uint64_t row_bytes = code_row_bytes(job.format, job.args, job.linear.cols);
  const std::uint64_t first_byte = job.first_row * row_bytes;
  if (!is_packed_integers(job.format) && !is_fp4(job.format)) {
    job.sink.write(tensor, first_byte, std::as_bytes(std::span(job.slice.codes)));
    return;
  }
  const auto coding = is_fp4(job.format) ? packing::Coding::raw : packing::Coding::offset;
  const auto bits = static_cast<unsigned>(job.args.num_bits);
  const std::uint64_t rows_at_once = std::clamp<std::uint64_t>(kScratchBytes / row_bytes, 1, job.slice.rows);
  auto& bytes = scratch();
  for (std::uint64_t row = 0; row < job.slice.rows; row += rows_at_once) {
    const std::uint64_t count = std::min(rows_at_once, job.slice.rows - row);
    bytes.resize(count * row_bytes);
    for (std::uint64_t r = 0; r < count; ++r) {
      packing::pack_row(std::span(job.slice.codes).subspan((row + r) * job.slice.cols, job.slice.cols), bits, coding,
                        std::span(bytes).subspan(r * row_bytes, row_bytes));
    }
    job.sink.write(tensor, first_byte + row * row_bytes, bytes);
  }
}

std::uint8_t power_of_two_byte(float scale, const Job& job) {
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  // 2^-127 is a subnormal float; every other power of two has an empty mantissa.
  constexpr std::uint32_t kSmallest = 0x00400000U;
  const bool power = bits == kSmallest || ((bits & 0x807FFFFFU) == 0 && bits != 0 && bits != 0x7F800000U);
  require(power, job, "a scale that is no power of two");
  return static_cast<std::uint8_t>(bits >> 23);
}

template <typename T, typename Convert>
void convert_scales(std::span<const float> scales, std::vector<std::byte>& bytes, Convert convert) {
  bytes.resize(scales.size() * sizeof(T));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const T value = convert(scales[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
}

/// F32, F16 or BF16.
std::span<const std::byte> plain_bytes(std::span<const float> scales, DType type) {
  if (type == DType::F32) return std::as_bytes(scales);
  auto& bytes = scratch();
  convert_scales<std::uint16_t>(scales, bytes, type == DType::F16 ? f32_to_f16 : f32_to_bf16);
  return bytes;
}

std::span<const std::byte> scale_bytes(std::span<const float> scales, DType type, const Job& job) {
  auto& bytes = scratch();
  switch (type) {
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      return plain_bytes(scales, type);
    case DType::F8_E4M3:
      convert_scales<std::uint8_t>(scales, bytes, f32_to_e4m3);
      break;
    default:
      convert_scales<std::uint8_t>(scales, bytes, [&](float s) { return power_of_two_byte(s, job); });
      break;
  }
  return bytes;
}

/// Scale rows before this slice.
std::uint64_t first_scale_row(const Job& job) {
  return job.args.strategy == Strategy::tensor ? 0 : job.first_row / job.slice.grid.row_extent;
}

bool owns_scales(const Job& job) { return job.args.strategy != Strategy::tensor || job.first_row == 0; }

void write_scales(const Job& job, std::size_t tensor) {
  if (!owns_scales(job)) return;
  const DType type = stored_scale_dtype(job.args, job.linear.dtype);
  const std::uint64_t offset = first_scale_row(job) * job.slice.grid.cols * dtype_bits(type) / 8;
  job.sink.write(tensor, offset, scale_bytes(job.slice.scales, type, job));
}

void write_zero_points(const Job& job, std::size_t tensor) {
  if (!owns_scales(job)) return;
  const std::span<const std::int8_t> zeros = job.slice.zero_points;
  const std::uint64_t cols = job.slice.grid.cols;
  if (!packs_zero_points(job.format, job.args)) {
    job.sink.write(tensor, first_scale_row(job) * cols, std::as_bytes(zeros));
    return;
  }
  const auto bits = static_cast<unsigned>(job.args.num_bits);
  auto& bytes = scratch();
  bytes.resize(packing::dense_words(job.slice.rows, bits) * cols * 4);
  packing::pack_along_rows(zeros, job.slice.rows, cols, bits, packing::Coding::offset, bytes);
  job.sink.write(tensor, job.first_row * bits / 32 * cols * 4, bytes);
}

void write_group_index(const Job& job, std::size_t tensor) {
  if (!job.slice.group_index.empty()) {
    job.sink.write(tensor, 0, std::as_bytes(std::span(job.slice.group_index)));
    return;
  }
  std::vector<std::int32_t> natural(job.slice.cols);
  for (std::size_t c = 0; c < natural.size(); ++c)
    natural[c] = static_cast<std::int32_t>(c / job.slice.grid.col_extent);
  job.sink.write(tensor, 0, std::as_bytes(std::span(natural)));
}

template <typename T>
void write_value(const Job& job, std::size_t tensor, const T& value) {
  job.sink.write(tensor, 0, std::as_bytes(std::span(&value, 1)));
}

/// A constant of the recipe wins over what calibration found.
float input_scale(const Job& job) {
  const QuantArgs& args = *job.scheme.input_activations;
  return constant_absmax(args) ? static_activation_scale(args) : job.slice.input_scale;
}

float input_global_scale(const Job& job) {
  const QuantArgs& args = *job.scheme.input_activations;
  const float scale = constant_absmax(args) ? static_activation_global_scale(args) : job.slice.input_global_scale;
  if (scale > 0 && std::isfinite(scale)) return scale;
  throw Error(ErrorCode::usage, fmt::format("{}: the global scale of its inputs is {}", job.linear.module, scale),
              "static scales need calibration, or observer_kwargs.absmax");
}

std::int8_t input_zero_point(const Job& job) {
  return constant_absmax(*job.scheme.input_activations) ? std::int8_t{0} : job.slice.input_zero_point;
}

void write_once(const Job& job, Part part, std::size_t tensor) {
  switch (part) {
    case Part::group_index:
      return write_group_index(job, tensor);
    case Part::global_scale:
      require(std::isfinite(job.slice.global_scale) && job.slice.global_scale > 0, job, "no positive global scale");
      return write_value(job, tensor, job.slice.global_scale);
    case Part::weight_shape: {
      const std::array<std::int64_t, 2> shape = {static_cast<std::int64_t>(job.linear.rows),
                                                 static_cast<std::int64_t>(job.linear.cols)};
      return write_value(job, tensor, shape);
    }
    case Part::input_scale:
      return write_static_scale(stored_part(part, job.scheme, job.linear), tensor, input_scale(job), job.sink);
    case Part::output_scale:
      return write_static_scale(stored_part(part, job.scheme, job.linear), tensor,
                                static_activation_scale(*job.scheme.output_activations), job.sink);
    case Part::input_zero_point:
      return write_value(job, tensor, input_zero_point(job));
    case Part::output_zero_point:
      return write_value(job, tensor, std::int8_t{0});  // of the range -absmax..absmax
    case Part::input_global_scale:
      return write_value(job, tensor, input_global_scale(job));
    case Part::output_global_scale:
      return write_value(job, tensor, static_activation_global_scale(*job.scheme.output_activations));
    default:
      return;
  }
}

}  // namespace

void write_static_scale(const StoredTensor& tensor, std::size_t place, float scale, StoredBytesSink& sink) {
  const float rounded = round_to_dtype(tensor.dtype, scale);
  if (!(rounded > 0) || !std::isfinite(rounded)) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: the static scale {} does not fit in {}", tensor.name, scale, dtype_name(tensor.dtype)),
                "static scales need calibration, or observer_kwargs.absmax with another value");
  }
  sink.write(place, 0, plain_bytes(std::span(&rounded, 1), tensor.dtype));
}

void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink) {
  const std::vector<Part> parts = parts_of(scheme);
  const Job job{scheme, linear, choose_format(scheme), *scheme.weights, first_row, slice, sink};
  check_slice(job);
  for (std::size_t tensor = 0; tensor < parts.size(); ++tensor) {
    switch (parts[tensor]) {
      case Part::codes:
        write_codes(job, tensor);
        break;
      case Part::scale:
        write_scales(job, tensor);
        break;
      case Part::zero_point:
        write_zero_points(job, tensor);
        break;
      default:
        if (first_row == 0) write_once(job, parts[tensor], tensor);
    }
  }
}

}  // namespace quant::compressed_tensors
