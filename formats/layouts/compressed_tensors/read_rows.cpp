#include "layouts/compressed_tensors/read_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "layouts/compressed_tensors/stored_parts.h"
#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

struct Job {
  const Checkpoint& checkpoint;
  const StoredLinear& linear;
  Format format;
  std::uint64_t first_row;
  std::uint64_t count;
  QuantizedTensor& out;

  std::string name(std::string_view suffix) const { return linear.shape.module + "." + std::string(suffix); }
  [[noreturn]] void fail(std::string_view suffix, const std::string& problem) const {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{}: tensor {} {}", checkpoint.location().string(), name(suffix), problem));
  }
  TensorView view(std::string_view suffix) const {
    const TensorInfo* info = checkpoint.find(name(suffix));
    if (info == nullptr) fail(suffix, "is missing");
    return checkpoint.view(*info);
  }
  /// That many bytes from `offset`; find_linears checked the shape, so a miss is a stale description.
  std::span<const std::byte> bytes(std::string_view suffix, std::uint64_t offset, std::uint64_t size) const {
    const auto all = view(suffix).bytes;
    if (offset > all.size() || size > all.size() - offset) fail(suffix, "is shorter than its module needs");
    return all.subspan(offset, size);
  }
};

void check_code_range(const Job& job, std::string_view suffix) {
  const QuantArgs& args = job.linear.args;
  if (args.type != NumberType::integer || args.num_bits >= 8) return;
  const auto [low, high] = std::minmax_element(job.out.codes.begin(), job.out.codes.end());
  const int limit = 1 << (args.num_bits - 1);
  if (*low < -limit || *high >= limit) {
    job.fail(suffix,
             fmt::format("holds {}, outside the {} bits of config.json", *low < -limit ? *low : *high, args.num_bits));
  }
}

void read_codes(const Job& job) {
  const QuantArgs& args = job.linear.args;
  const std::uint64_t cols = job.linear.shape.cols;
  const std::string_view suffix = part_suffix(Part::codes, job.format);
  const std::uint64_t row_bytes = code_row_bytes(job.format, args, cols);
  const auto stored = job.bytes(suffix, job.first_row * row_bytes, job.count * row_bytes);
  if (!is_packed_integers(job.format) && !is_fp4(job.format)) {
    std::memcpy(job.out.codes.data(), stored.data(), stored.size());
    return check_code_range(job, suffix);
  }
  const auto bits = static_cast<unsigned>(args.num_bits);
  for (std::uint64_t r = 0; r < job.count; ++r) {
    const auto row = stored.subspan(r * row_bytes, row_bytes);
    const auto codes = std::span(job.out.codes).subspan(r * cols, cols);
    if (job.format == Format::pack_quantized_old) {
      packing::unpack_row_whole_elements(row, bits, packing::Coding::offset, codes);
    } else {
      packing::unpack_row(row, bits, is_fp4(job.format) ? packing::Coding::raw : packing::Coding::offset, codes);
    }
  }
}

/// First row of the scale matrix that belongs to these rows.
std::uint64_t first_scale_row(const Job& job) {
  return job.linear.args.strategy == Strategy::tensor ? 0 : job.first_row / job.out.grid.row_extent;
}

void read_scales(const Job& job) {
  const TensorView stored = job.view("weight_scale");
  const std::uint64_t first = first_scale_row(job) * job.out.grid.cols;
  const std::uint64_t width = dtype_bits(stored.dtype) / 8;
  const auto bytes = job.bytes("weight_scale", first * width, job.out.scales.size() * width);
  if (stored.dtype == DType::U8 || stored.dtype == DType::F8_E8M0) {
    for (std::size_t i = 0; i < bytes.size(); ++i) job.out.scales[i] = e8m0_to_f32(static_cast<std::uint8_t>(bytes[i]));
  } else {
    read_f32(stored, first, job.out.scales);
  }
  for (const float scale : job.out.scales) {
    if (!std::isfinite(scale)) job.fail("weight_scale", "holds a value that is not finite");
  }
}

void read_zero_points(const Job& job) {
  const QuantArgs& args = job.linear.args;
  if (args.symmetric) return;
  const std::uint64_t cols = job.out.grid.cols;
  if (!packs_zero_points(job.format, args)) {
    const auto bytes = job.bytes("weight_zero_point", first_scale_row(job) * cols, job.out.zero_points.size());
    std::memcpy(job.out.zero_points.data(), bytes.data(), bytes.size());
    return;
  }
  const auto bits = static_cast<unsigned>(args.num_bits);
  const bool old = job.format == Format::pack_quantized_old;
  const std::uint64_t first = old ? job.first_row / (32 / bits) : job.first_row / 32 * bits;
  const std::uint64_t words =
      old ? packing::whole_element_words(job.count, bits) : packing::dense_words(job.count, bits);
  const auto bytes = job.bytes("weight_zero_point", first * cols * 4, words * cols * 4);
  packing::unpack_along_rows(bytes, job.count, cols, bits, packing::Coding::offset, old, job.out.zero_points);
}

void read_group_index(const Job& job) {
  if (job.checkpoint.find(job.name("weight_g_idx")) == nullptr) return;
  const std::uint64_t cols = job.linear.shape.cols;
  const auto bytes = job.bytes("weight_g_idx", 0, cols * 4);
  job.out.group_index.resize(cols);
  std::memcpy(job.out.group_index.data(), bytes.data(), bytes.size());
  const auto [low, high] = std::minmax_element(job.out.group_index.begin(), job.out.group_index.end());
  if (*low == -1) {  // the package's mark for "columns are in order"
    job.out.group_index.clear();
  } else if (*low < 0 || static_cast<std::uint64_t>(*high) >= job.out.grid.cols) {
    job.fail("weight_g_idx",
             fmt::format("holds {}, but there are {} groups", *low < 0 ? *low : *high, job.out.grid.cols));
  }
}

void read_global_scale(const Job& job) {
  if (job.format != Format::nvfp4) return;
  const auto bytes = job.bytes("weight_global_scale", 0, sizeof(float));
  std::memcpy(&job.out.global_scale, bytes.data(), sizeof(float));
  if (!std::isfinite(job.out.global_scale) || job.out.global_scale <= 0) {
    job.fail("weight_global_scale", fmt::format("holds {}, not a positive number", job.out.global_scale));
  }
}

}  // namespace

Format format_of(const StoredLinear& linear) {
  const auto format = parse_format(linear.format);
  if (!format) throw Error(ErrorCode::internal, fmt::format("\"{}\" is no compressed-tensors format", linear.format));
  return *format;
}

void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
               QuantizedTensor& out) {
  const Format format = format_of(linear);
  const std::uint64_t rows = linear.shape.rows;
  if (count == 0 || first_row > rows || count > rows - first_row ||
      first_row % slice_alignment(format, linear.args) != 0) {
    throw Error(ErrorCode::internal, fmt::format("{}: rows {}..{} of {} cannot be read", linear.shape.module, first_row,
                                                 first_row + count, rows));
  }
  out.resize(linear.args, count, linear.shape.cols);
  out.scale_dtype = linear.scale_dtype;
  const Job job{checkpoint, linear, format, first_row, count, out};
  read_codes(job);
  read_scales(job);
  read_zero_points(job);
  read_group_index(job);
  read_global_scale(job);
}

}  // namespace quant::compressed_tensors
