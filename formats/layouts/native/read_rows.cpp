#include "layouts/native/read_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "layouts/native/config.h"
#include "layouts/native/kept.h"
#include "layouts/native/parts.h"
#include "layouts/stored/tensor_parts.h"
#include "packing/pack_bits.h"
#include "packing/pack_ternary.h"
#include "quant/error.h"
#include "quant/scale_codes.h"

namespace quant::native {
namespace {

struct Job {
  const Checkpoint& checkpoint;
  const StoredLinear& linear;
  std::uint64_t first_row;
  QuantizedTensor& out;

  const TensorInfo& info(Part part) const {
    return stored::need_tensor(checkpoint, linear.shape.module + part_suffix(part), {}, nullptr);
  }
  std::span<const std::byte> bytes(Part part, std::uint64_t offset, std::uint64_t size) const {
    return stored::bytes_of(checkpoint, info(part), offset, size);
  }
  void floats(Part part, std::uint64_t first, std::span<float> values) const {
    stored::read_floats(checkpoint, info(part), first, values);
  }
  std::uint64_t unit() const { return first_scale(linear.args, first_row, linear.shape.cols); }
};

std::span<const std::uint8_t> mask_row(const Job& job, std::uint64_t row) {
  return std::span<const std::uint8_t>(job.out.mask).subspan(row * job.out.cols, job.out.cols);
}

// How many weights are kept before each of the rows, and up to their end.
std::vector<std::uint64_t> read_starts(const Job& job) {
  const StoredSparsity& sparsity = *job.linear.shape.sparsity;
  std::vector<std::uint64_t> starts(job.out.rows + 1);
  if (has_equal_rows(sparsity)) {
    const std::uint64_t each = job.linear.shape.cols / sparsity.of * sparsity.keep;
    for (std::uint64_t r = 0; r < starts.size(); ++r) starts[r] = (job.first_row + r) * each;
    return starts;
  }
  const auto bytes = job.bytes(Part::starts, 4 * job.first_row, 4 * starts.size());
  for (std::uint64_t r = 0; r < starts.size(); ++r) {
    std::uint32_t start = 0;
    std::memcpy(&start, bytes.data() + 4 * r, 4);
    starts[r] = start;
  }
  const bool first = job.first_row == 0, last = job.first_row + job.out.rows == job.linear.shape.rows;
  if (!std::is_sorted(starts.begin(), starts.end()) || (first && starts.front() != 0) ||
      starts.back() > sparsity.kept || (last && starts.back() != sparsity.kept)) {
    stored::fail(job.checkpoint, job.info(Part::starts).name,
                 fmt::format("does not ascend from 0 to {} in rows {} to {}", sparsity.kept, job.first_row,
                             job.first_row + job.out.rows));
  }
  return starts;
}

// Which weights are stored, and how many before each row.
std::vector<std::uint64_t> read_mask(const Job& job) {
  const StoredSparsity& sparsity = *job.linear.shape.sparsity;
  const std::uint64_t cols = job.linear.shape.cols, row_bytes = mask_row_bytes(sparsity, cols);
  const auto packed = job.bytes(Part::mask, job.first_row * row_bytes, job.out.rows * row_bytes);
  const std::vector<std::uint64_t> starts = read_starts(job);
  job.out.mask.resize(job.out.rows * cols);
  job.out.kept_before = starts.front();
  for (std::uint64_t r = 0; r < job.out.rows; ++r) {
    const auto mask = std::span(job.out.mask).subspan(r * cols, cols);
    const bool sound = unpack_mask(sparsity, packed.subspan(r * row_bytes, row_bytes), mask);
    const auto kept = static_cast<std::uint64_t>(std::count(mask.begin(), mask.end(), 1));
    if (sound && kept == starts[r + 1] - starts[r]) continue;
    stored::fail(
        job.checkpoint, job.info(Part::mask).name,
        fmt::format("holds no mask of {} kept weights in row {}", starts[r + 1] - starts[r], job.first_row + r));
  }
  return starts;
}

// The code whose value is 0 in a unit of scales.
std::int8_t code_of_zero(const Job& job, std::size_t unit) {
  const QuantArgs& args = job.linear.args;
  if (!job.out.real_zero_points.empty()) {
    const float zero = job.out.real_zero_points[unit];
    const bool is_code = zero == std::nearbyint(zero) && zero >= static_cast<float>(code_min(args)) &&
                         zero <= static_cast<float>(code_max(args));
    if (is_code) return static_cast<std::int8_t>(zero);
    stored::fail(job.checkpoint, job.info(Part::zero_point).name,
                 fmt::format("holds {}, but zeros that are left out need one that is a code", zero));
  }
  if (args.type == NumberType::integer) return job.out.zero_points.empty() ? std::int8_t{0} : job.out.zero_points[unit];
  const std::size_t count = std::size_t{1} << static_cast<unsigned>(args.num_bits);
  const std::size_t first = has_learned_codebook(args) ? unit * count : 0;
  const auto table = std::span<const float>(job.out.codebook).subspan(first, count);
  const auto zero = std::find(table.begin(), table.end(), 0.0F);
  if (zero == table.end()) {
    stored::fail(job.checkpoint, job.linear.shape.module + ".weight_codes", "omits zeros, but its codebook has none");
  }
  return static_cast<std::int8_t>(zero - table.begin());
}

std::size_t unit_of(const QuantizedTensor& tensor, std::uint64_t row, std::uint64_t col) {
  const ScaleGrid& grid = tensor.grid;
  if (grid.flat != 0) return (row * tensor.cols + col) / grid.flat;
  return row / grid.row_extent * grid.cols + col / grid.col_extent;
}

// Weights that are not stored get the code of 0.
void fill_zeros(const Job& job) {
  if (!job.linear.shape.sparsity || is_plain(job.linear.args)) return;
  std::size_t known = SIZE_MAX;
  std::int8_t zero = 0;
  for (std::uint64_t r = 0; r < job.out.rows; ++r) {
    const auto mask = mask_row(job, r);
    for (std::uint64_t c = 0; c < job.out.cols; ++c) {
      if (mask[c] != 0) continue;
      const std::size_t unit = unit_of(job.out, r, c);
      if (unit != known) zero = code_of_zero(job, unit);
      known = unit;
      job.out.codes[r * job.out.cols + c] = zero;
    }
  }
}

void read_kept_codes(const Job& job) {
  const std::vector<std::uint64_t> starts = read_mask(job);
  const int bits = job.linear.args.num_bits;
  const auto coding = job.linear.args.type == NumberType::integer ? packing::Coding::offset : packing::Coding::raw;
  const std::uint64_t begin = code_row_begin(starts.front(), job.first_row, bits);
  const std::uint64_t end = code_row_begin(starts.back(), job.first_row + job.out.rows, bits);
  const auto packed = job.bytes(Part::codes, begin, end - begin);
  std::vector<std::int8_t> kept;
  for (std::uint64_t r = 0; r < job.out.rows; ++r) {
    kept.resize(starts[r + 1] - starts[r]);
    const std::uint64_t at = code_row_begin(starts[r], job.first_row + r, bits) - begin;
    packing::unpack_row(packed.subspan(at), static_cast<unsigned>(bits), coding, kept);
    const auto mask = mask_row(job, r);
    for (std::uint64_t c = 0, k = 0; c < job.out.cols; ++c) {
      if (mask[c] != 0) job.out.codes[r * job.out.cols + c] = kept[k++];
    }
  }
}

void read_values(const Job& job) {
  const std::vector<std::uint64_t> starts = read_mask(job);
  std::vector<float> kept(starts.back() - starts.front());
  job.floats(Part::values, starts.front(), kept);
  for (std::size_t i = 0, k = 0; i < job.out.plain.size(); ++i) {
    job.out.plain[i] = job.out.mask[i] != 0 ? kept[k++] : 0.0F;
  }
}

void read_codes(const Job& job) {
  if (job.linear.shape.sparsity) return read_kept_codes(job);
  const QuantArgs& args = job.linear.args;
  const std::uint64_t cols = job.linear.shape.cols, row_bytes = code_row_bytes(args, cols);
  const auto packed = job.bytes(Part::codes, job.first_row * row_bytes, job.out.rows * row_bytes);
  const auto coding = args.type == NumberType::integer ? packing::Coding::offset : packing::Coding::raw;
  for (std::uint64_t r = 0; r < job.out.rows; ++r) {
    const auto row = packed.subspan(r * row_bytes, row_bytes);
    const auto codes = std::span(job.out.codes).subspan(r * cols, cols);
    if (!is_ternary(args)) {
      packing::unpack_row(row, static_cast<unsigned>(args.num_bits), coding, codes);
    } else if (const auto bad = packing::unpack_ternary(row, codes)) {
      stored::fail(job.checkpoint, job.info(Part::codes).name,
                   fmt::format("holds {} in row {}, byte {}; five ternary codes are at most 242",
                               static_cast<unsigned>(row[*bad]), job.first_row + r, *bad));
    }
  }
}

void read_blocks(const Job& job) {
  const std::uint64_t row_bytes = block_bytes(*job.linear.args.block, job.linear.shape.cols);
  const auto bytes = job.bytes(Part::blocks, job.first_row * row_bytes, job.out.blocks.size());
  std::memcpy(job.out.blocks.data(), bytes.data(), bytes.size());
}

void read_scales(const Job& job) {
  const QuantArgs& args = job.linear.args;
  const std::uint64_t unit = job.unit();
  if (has_learned_codebook(args)) {
    return job.floats(Part::codebook, unit << static_cast<unsigned>(args.num_bits), job.out.codebook);
  }
  if (!args.double_quant) return job.floats(Part::scale, unit, job.out.scales);
  CodedScales& coded = job.out.coded_scales;
  const auto codes = job.bytes(Part::scale_codes, unit, coded.codes.size());
  std::memcpy(coded.codes.data(), codes.data(), codes.size());
  job.floats(Part::scale_scales, unit / CodedScales::kBlock, coded.scales);
  job.floats(Part::scale_offset, 0, std::span(&coded.offset, 1));
  const auto map = dynamic_scale_map();
  coded.map.assign(map.begin(), map.end());
  decode_scales(job.out);
}

void read_zero_points(const Job& job) {
  if (job.linear.args.symmetric) return;
  if (has_real_zero_points(job.linear.args)) return job.floats(Part::zero_point, job.unit(), job.out.real_zero_points);
  const auto bytes = job.bytes(Part::zero_point, job.unit(), job.out.zero_points.size());
  std::memcpy(job.out.zero_points.data(), bytes.data(), bytes.size());
}

void check_columns(const Job& job) {
  const SparseRows& sparse = job.out.sparse;
  for (std::uint64_t r = 0; r < job.out.rows; ++r) {
    for (std::uint64_t i = sparse.starts[r]; i < sparse.starts[r + 1]; ++i) {
      const bool ascending = i == sparse.starts[r] || sparse.columns[i] > sparse.columns[i - 1];
      if (ascending && sparse.columns[i] < job.linear.shape.cols) continue;
      stored::fail(job.checkpoint, job.info(Part::sparse_columns).name,
                   fmt::format("holds {} in row {}, which is not ascending or not below {}", sparse.columns[i],
                               job.first_row + r, job.linear.shape.cols));
    }
  }
}

void read_sparse(const Job& job) {
  if (!has_sparse_part(job.linear.args)) return;
  SparseRows& sparse = job.out.sparse;
  std::vector<std::uint32_t> starts(job.out.rows + 1);
  const auto bytes = job.bytes(Part::sparse_starts, 4 * job.first_row, 4 * starts.size());
  std::memcpy(starts.data(), bytes.data(), bytes.size());
  const TensorInfo& columns = job.info(Part::sparse_columns);
  const std::uint64_t entries = columns.shape.front();
  if (!std::is_sorted(starts.begin(), starts.end()) || starts.back() > entries ||
      (job.first_row == 0 && starts.front() != 0)) {
    stored::fail(job.checkpoint, job.info(Part::sparse_starts).name,
                 fmt::format("does not ascend from 0 to {} in rows {} to {}", entries, job.first_row,
                             job.first_row + job.out.rows));
  }
  if (job.first_row + job.out.rows == job.linear.shape.rows && starts.back() != entries) {
    stored::fail(job.checkpoint, job.info(Part::sparse_starts).name,
                 fmt::format("ends with {} where there are {} entries", starts.back(), entries));
  }
  sparse.first = starts.front();
  const std::uint64_t count = starts.back() - sparse.first;
  for (const std::uint32_t start : starts) sparse.starts.push_back(start - sparse.first);
  sparse.columns.resize(count);
  const std::uint64_t width = dtype_bits(columns.dtype) / 8;
  const auto packed = job.bytes(Part::sparse_columns, sparse.first * width, count * width);
  for (std::uint64_t i = 0; i < count; ++i) std::memcpy(&sparse.columns[i], packed.data() + i * width, width);
  sparse.values.resize(count);
  sparse.dtype = job.info(Part::sparse_values).dtype;
  job.floats(Part::sparse_values, sparse.first, sparse.values);
  check_columns(job);
}

// Every stored tensor has the type and shape that the arguments demand, but for the type of scales.
StoredLinear inspect(const Checkpoint& checkpoint, const ListedLinear& listed) {
  StoredLinear linear;
  linear.shape = listed.shape;
  linear.args = listed.args;
  linear.format = format_of(listed.args);
  Scheme scheme;
  scheme.weights = listed.args;
  if (const auto reason = why_unsupported(scheme, listed.shape)) {
    throw Error(ErrorCode::corrupt_file, fmt::format("config.json: {}: {}", listed.shape.module, *reason));
  }
  linear.scale_dtype = is_plain(listed.args) ? listed.shape.dtype : stored_scale_dtype(listed.args, listed.shape.dtype);
  for (const Part part : parts_of(listed.args, listed.shape)) {
    const StoredTensor wanted = stored_part(part, listed.args, listed.shape);
    stored::need_tensor(checkpoint, wanted.name, {wanted.dtype}, &wanted.shape);
    linear.tensors.push_back(wanted.name);
  }
  return linear;
}

}  // namespace

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) {
  std::vector<StoredLinear> linears;
  std::set<std::string> known;
  for (const ListedLinear& listed : listed_linears(checkpoint.config())) {
    linears.push_back(inspect(checkpoint, listed));
    known.insert(linears.back().tensors.begin(), linears.back().tensors.end());
  }
  // Codes that config.json forgets would otherwise be copied along in silence.
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    const bool packed = tensor.name.ends_with(part_suffix(Part::codes)) ||
                        tensor.name.ends_with(part_suffix(Part::values)) ||
                        tensor.name.ends_with(part_suffix(Part::blocks));
    if (!packed || known.contains(tensor.name)) continue;
    stored::fail(checkpoint, tensor.name, "is not of a linear that config.json lists");
  }
  return linears;
}

std::uint64_t read_alignment(const StoredLinear& linear) {
  return std::min(scale_row_alignment(linear.args, linear.shape.cols), linear.shape.rows);
}

void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
               QuantizedTensor& out) {
  const std::uint64_t rows = linear.shape.rows;
  if (count == 0 || first_row > rows || count > rows - first_row || first_row % read_alignment(linear) != 0) {
    throw Error(ErrorCode::internal, fmt::format("{}: rows {}..{} of {} cannot be read", linear.shape.module, first_row,
                                                 first_row + count, rows));
  }
  out.resize(linear.args, count, linear.shape.cols);
  out.scale_dtype = linear.scale_dtype;
  const Job job{checkpoint, linear, first_row, out};
  if (is_plain(linear.args)) return read_values(job);
  if (has_blocks(linear.args)) return read_blocks(job);
  read_codes(job);
  read_scales(job);
  read_zero_points(job);
  read_sparse(job);
  fill_zeros(job);
}

}  // namespace quant::native
