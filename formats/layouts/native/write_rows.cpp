#include "layouts/native/write_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "layouts/native/kept.h"
#include "layouts/native/parts.h"
#include "layouts/stored/tensor_parts.h"
#include "packing/pack_bits.h"
#include "packing/pack_ternary.h"
#include "quant/error.h"

namespace quant::native {
namespace {

struct Job {
  const QuantArgs& args;
  const LinearShape& linear;
  std::uint64_t first_row;
  const QuantizedTensor& slice;
  StoredBytesSink& sink;

  /// Place of the slice's first scale; what has one scale for all rows is written with row 0.
  std::uint64_t unit() const { return first_scale(args, first_row, linear.cols); }
  bool owns_units() const { return args.strategy != Strategy::tensor || first_row == 0; }
};

void require(bool ok, const Job& job, std::string_view what) {
  if (!ok) throw Error(ErrorCode::internal, fmt::format("{}: the slice to store has {}", job.linear.module, what));
}

void check_slice(const Job& job) {
  const QuantizedTensor& slice = job.slice;
  const std::uint64_t end = checked_add(job.first_row, slice.rows, "rows");
  require(slice.cols == job.linear.cols && slice.rows > 0 && end <= job.linear.rows, job, "rows outside the linear");
  require(job.first_row % scale_row_alignment(job.args, job.linear.cols) == 0, job, "a part of the rows of a scale");
  QuantArgs args = slice.args;  // what algorithms had to keep in mind is no part of what is stored
  args.keep_zeros = job.args.keep_zeros;
  require(args == job.args, job, "other arguments");
  if (has_blocks(job.args)) {
    const std::uint64_t row_bytes = block_bytes(*job.args.block, job.linear.cols);
    return require(slice.blocks.size() == slice.rows * row_bytes, job, "a wrong number of blocks");
  }
  const std::uint64_t weights = slice.rows * slice.cols;
  const bool plain = is_plain(job.args);
  require(slice.codes.size() == (plain ? 0 : weights), job, "a wrong number of codes");
  require(slice.plain.size() == (plain ? weights : 0), job, "a wrong number of values");
  require(!job.linear.sparsity || slice.mask.size() == weights, job, "no mask");
  const std::uint64_t units = slice.grid.count();
  const bool learned = has_learned_codebook(job.args), real = has_real_zero_points(job.args);
  require(slice.scales.size() == (learned || plain ? 0 : units), job, "a wrong number of scales");
  require(!learned || slice.codebook.size() == units << static_cast<unsigned>(job.args.num_bits), job,
          "a codebook of another size");
  require(slice.zero_points.size() == (job.args.symmetric || real ? 0 : units), job, "a wrong number of zero points");
  require(slice.real_zero_points.size() == (real ? units : 0), job, "a wrong number of zero points");
  require(slice.coded_scales.codes.size() == (job.args.double_quant ? units : 0), job,
          "a wrong number of coded scales");
  require(slice.sparse.starts.size() == (has_sparse_part(job.args) ? slice.rows + 1 : 0), job, "another sparse part");
  require(slice.group_index.empty(), job, "a group index, which has no place");
}

std::span<const std::uint8_t> mask_row(const Job& job, std::uint64_t row) {
  return std::span(job.slice.mask).subspan(row * job.slice.cols, job.slice.cols);
}

void write_mask(const Job& job, std::size_t tensor) {
  const StoredSparsity& sparsity = *job.linear.sparsity;
  const std::uint64_t row_bytes = mask_row_bytes(sparsity, job.linear.cols);
  std::vector<std::byte> bytes(job.slice.rows * row_bytes);
  for (std::uint64_t r = 0; r < job.slice.rows; ++r) {
    require(pack_mask(sparsity, mask_row(job, r), std::span(bytes).subspan(r * row_bytes, row_bytes)), job,
            "a mask of another pattern");
  }
  job.sink.write(tensor, job.first_row * row_bytes, bytes);
}

// Each slice writes how many weights are kept up to the ends of its rows; the first one the 0 at the beginning as well.
void write_row_starts(const Job& job, std::size_t tensor) {
  std::vector<std::uint32_t> starts;
  std::uint64_t kept = job.slice.kept_before;
  if (job.first_row == 0) starts.push_back(0);
  for (std::uint64_t r = 0; r < job.slice.rows; ++r) {
    const auto row = mask_row(job, r);
    kept += static_cast<std::uint64_t>(std::count(row.begin(), row.end(), 1));
    starts.push_back(static_cast<std::uint32_t>(kept));
  }
  require(kept <= job.linear.sparsity->kept, job, "more weights than its mask may keep");
  const bool last = job.first_row + job.slice.rows == job.linear.rows;
  require(!last || kept == job.linear.sparsity->kept, job, "fewer weights than its mask keeps");
  job.sink.write(tensor, 4 * (job.first_row == 0 ? 0 : job.first_row + 1), std::as_bytes(std::span(starts)));
}

template <class Value>
std::vector<Value> kept_of(std::span<const Value> row, std::span<const std::uint8_t> mask) {
  std::vector<Value> kept;
  for (std::size_t c = 0; c < row.size(); ++c) {
    if (mask[c] != 0) kept.push_back(row[c]);
  }
  return kept;
}

void write_kept_values(const Job& job, std::size_t tensor) {
  const std::vector<float> kept = kept_of<float>(job.slice.plain, job.slice.mask);
  if (kept.empty()) return;
  const std::uint64_t width = dtype_bits(job.linear.dtype) / 8;
  job.sink.write(tensor, job.slice.kept_before * width, stored::float_bytes(job.linear.dtype, kept));
}

// One write for the slice: bytes between rows stay 0.
void write_kept_codes(const Job& job, std::size_t tensor) {
  const int bits = job.args.num_bits;
  const auto coding = job.args.type == NumberType::integer ? packing::Coding::offset : packing::Coding::raw;
  const std::uint64_t begin = code_row_begin(job.slice.kept_before, job.first_row, bits);
  std::uint64_t kept = job.slice.kept_before;
  std::vector<std::byte> bytes;
  for (std::uint64_t r = 0; r < job.slice.rows; ++r) {
    const auto codes = std::span<const std::int8_t>(job.slice.codes).subspan(r * job.slice.cols, job.slice.cols);
    const std::vector<std::int8_t> row = kept_of<std::int8_t>(codes, mask_row(job, r));
    const std::uint64_t at = code_row_begin(kept, job.first_row + r, bits) - begin;
    kept += row.size();
    bytes.resize(code_row_begin(kept, job.first_row + r + 1, bits) - begin);
    const std::uint64_t size = (row.size() * static_cast<std::uint64_t>(bits) + 7) / 8;
    packing::pack_row(row, static_cast<unsigned>(bits), coding, std::span(bytes).subspan(at, size));
  }
  job.sink.write(tensor, begin, bytes);
}

void write_codes(const Job& job, std::size_t tensor) {
  if (job.linear.sparsity) return write_kept_codes(job, tensor);
  const std::uint64_t row_bytes = code_row_bytes(job.args, job.linear.cols);
  const auto coding = job.args.type == NumberType::integer ? packing::Coding::offset : packing::Coding::raw;
  std::vector<std::byte> bytes(job.slice.rows * row_bytes);
  for (std::uint64_t r = 0; r < job.slice.rows; ++r) {
    const auto codes = std::span(job.slice.codes).subspan(r * job.slice.cols, job.slice.cols);
    const auto out = std::span(bytes).subspan(r * row_bytes, row_bytes);
    if (is_ternary(job.args)) {
      packing::pack_ternary(codes, out);
    } else {
      packing::pack_row(codes, static_cast<unsigned>(job.args.num_bits), coding, out);
    }
  }
  job.sink.write(tensor, job.first_row * row_bytes, bytes);
}

void write_floats(const Job& job, std::size_t tensor, DType type, std::uint64_t first, std::span<const float> values) {
  if (values.empty()) return;
  job.sink.write(tensor, first * dtype_bits(type) / 8, stored::float_bytes(type, values));
}

void write_starts(const Job& job, std::size_t tensor) {
  const SparseRows& sparse = job.slice.sparse;
  std::vector<std::uint32_t> starts;
  // Each slice writes the ends of its rows; the first one the 0 at the beginning as well.
  for (std::size_t r = job.first_row == 0 ? 0 : 1; r < sparse.starts.size(); ++r) {
    starts.push_back(static_cast<std::uint32_t>(sparse.first + sparse.starts[r]));
  }
  job.sink.write(tensor, 4 * (job.first_row == 0 ? 0 : job.first_row + 1), std::as_bytes(std::span(starts)));
}

void write_columns(const Job& job, std::size_t tensor) {
  const SparseRows& sparse = job.slice.sparse;
  if (sparse.columns.empty()) return;
  if (column_dtype(job.linear.cols) == DType::U32) {
    return job.sink.write(tensor, 4 * sparse.first, std::as_bytes(std::span(sparse.columns)));
  }
  const std::vector<std::uint16_t> narrow(sparse.columns.begin(), sparse.columns.end());
  job.sink.write(tensor, 2 * sparse.first, std::as_bytes(std::span(narrow)));
}

void write_unit_part(const Job& job, Part part, std::size_t tensor) {
  const QuantizedTensor& slice = job.slice;
  const DType scales = stored_scale_dtype(job.args, job.linear.dtype);
  const std::uint64_t unit = job.unit();
  switch (part) {
    case Part::codebook:
      return write_floats(job, tensor, scales, unit << static_cast<unsigned>(job.args.num_bits), slice.codebook);
    case Part::scale:
      return write_floats(job, tensor, scales, unit, slice.scales);
    case Part::scale_codes:
      return job.sink.write(tensor, unit, std::as_bytes(std::span(slice.coded_scales.codes)));
    case Part::scale_scales:
      return write_floats(job, tensor, DType::F32, unit / CodedScales::kBlock, slice.coded_scales.scales);
    case Part::zero_point:
      if (has_real_zero_points(job.args)) {
        return write_floats(job, tensor, *job.args.zp_dtype, unit, slice.real_zero_points);
      }
      return job.sink.write(tensor, unit, std::as_bytes(std::span(slice.zero_points)));
    default:
      return;
  }
}

}  // namespace

void write_rows(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink) {
  const Job job{args, linear, first_row, slice, sink};
  check_slice(job);
  const std::vector<Part> parts = parts_of(args, linear);
  for (std::size_t tensor = 0; tensor < parts.size(); ++tensor) {
    switch (parts[tensor]) {
      case Part::mask:
        write_mask(job, tensor);
        break;
      case Part::starts:
        write_row_starts(job, tensor);
        break;
      case Part::values:
        write_kept_values(job, tensor);
        break;
      case Part::codes:
        write_codes(job, tensor);
        break;
      case Part::blocks:
        sink.write(tensor, first_row * block_bytes(*args.block, linear.cols), slice.blocks);
        break;
      case Part::sparse_starts:
        write_starts(job, tensor);
        break;
      case Part::sparse_columns:
        write_columns(job, tensor);
        break;
      case Part::sparse_values:
        write_floats(job, tensor, sparse_dtype(stored_scale_dtype(args, linear.dtype)), slice.sparse.first,
                     slice.sparse.values);
        break;
      case Part::scale_offset:
        if (first_row == 0) write_floats(job, tensor, DType::F32, 0, std::span(&slice.coded_scales.offset, 1));
        break;
      default:
        if (job.owns_units()) write_unit_part(job, parts[tensor], tensor);
    }
  }
}

}  // namespace quant::native
