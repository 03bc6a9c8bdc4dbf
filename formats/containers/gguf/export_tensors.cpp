#include "containers/gguf/export_tensors.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "containers/gguf/architectures.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kSliceWeights = 1U << 20U;

void check_finite(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t cols,
                  const std::vector<float>& values) {
  const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
  if (bad == values.end()) return;
  const auto place = static_cast<std::uint64_t>(bad - values.begin());
  throw Error(ErrorCode::numerical,
              fmt::format("{} holds {} in row {}, column {}", tensor.name, *bad, first + place / cols, place % cols));
}

}  // namespace

int TensorWriter::threads() const {
  const long all = sysconf(_SC_NPROCESSORS_ONLN);
  return options_.scan.threads > 0 ? options_.scan.threads : static_cast<int>(std::max(1L, all));
}

// About a million weights each; whole heads of matrices whose rows change places.
std::vector<TensorWriter::Slice> TensorWriter::slices_of(const Item& item) {
  const std::uint64_t unit = std::max<std::uint64_t>(1, item.head);
  const std::uint64_t step = std::max(unit, kSliceWeights / std::max<std::uint64_t>(1, item.cols) / unit * unit);
  std::vector<Slice> slices;
  std::uint64_t row = 0;
  for (std::size_t i = 0; i < item.sources.size(); ++i) {
    const Source& source = item.sources[i];
    for (std::uint64_t done = 0; done < source.rows; done += step) {
      const std::uint64_t count = std::min(step, source.rows - done);
      slices.push_back({i, source.first + done, count, row});
      row += count;
    }
  }
  return slices;
}

void TensorWriter::write(const Item& item, const io::FileHandle& file, const fs::path& path, std::uint64_t offset,
                         std::vector<GgufMatrix>& matrices) const {
  if (item.sources.empty()) return io::write_at(file, path, offset, std::as_bytes(std::span(item.values)));
  if (!item.matrix) return write_vector(item, file, path, offset);
  const std::vector<Slice> slices = slices_of(item);
  const std::uint64_t row_bytes = block_bytes(item.type, item.cols);
  std::vector<ErrorSums> sums(slices.size());
  std::atomic<bool> failed = false;
  std::exception_ptr error;
  // Slices are written where they belong, so their order does not matter.
#pragma omp parallel for schedule(dynamic) num_threads(threads())
  for (std::size_t s = 0; s < slices.size(); ++s) {
    if (failed) continue;
    try {
      if (options_.scan.stop != nullptr && *options_.scan.stop) throw Error(ErrorCode::interrupted, "stopped");
      const Slice& slice = slices[s];
      const std::vector<std::byte> bytes = rows_of(item, slice, sums[s]);
      io::write_at(file, path, offset + slice.row * row_bytes, bytes);
      if (!item.transposed) tensors_.done_reading(*item.sources[slice.source].tensor, slice.first, slice.count);
    } catch (...) {
#pragma omp critical
      if (!error) error = std::current_exception();
      failed = true;
    }
  }
  if (error) std::rethrow_exception(error);
  const LogicalTensor* last = nullptr;
  for (std::size_t s = 0; s < slices.size(); ++s) {
    const LogicalTensor& tensor = *item.sources[slices[s].source].tensor;
    if (&tensor != last) {
      tensors_.done_reading(tensor);
      if (block_format(item.type).weights > 1)
        matrices.push_back({tensor.name, item.type, item.moved, item.rounded, {}});
    }
    last = &tensor;
    if (block_format(item.type).weights > 1) matrices.back().sums += sums[s];
  }
}

void TensorWriter::write_vector(const Item& item, const io::FileHandle& file, const fs::path& path,
                                std::uint64_t offset) const {
  std::vector<float> all;
  for (const Source& source : item.sources) {
    std::vector<float> values(source.rows);
    tensors_.read_rows(*source.tensor, source.first, source.rows, values);
    for (std::uint64_t i = 0; i < values.size(); ++i) {
      all.push_back(values[item.head == 0 ? i : model_row(i, item.head)] + (item.one_more ? 1.0F : 0.0F));
    }
  }
  io::write_at(file, path, offset, std::as_bytes(std::span(all)));
}

std::vector<std::byte> TensorWriter::rows_of(const Item& item, const Slice& slice, ErrorSums& sums) const {
  const LogicalTensor& tensor = *item.sources[slice.source].tensor;
  const std::uint64_t row_bytes = block_bytes(item.type, item.cols);
  std::vector<std::byte> bytes(slice.count * row_bytes);
  if (item.moved) {
    bytes = moved_rows(item, slice);
  } else {
    const std::vector<float> values = values_of(item, slice);
    check_finite(tensor, slice.first, item.cols, values);
    encode_blocks(item.type, values, item.cols, importance_of(tensor, item.cols), options_.encoder, bytes);
    std::vector<float> decoded(values.size());
    decode_blocks(item.type, bytes, decoded);
    if (!std::ranges::all_of(decoded, [](float value) { return std::isfinite(value); })) {
      throw Error(ErrorCode::numerical,
                  fmt::format("{} has weights beyond half precision, which {} needs.", tensor.name,
                              block_format(item.type).name),
                  "BF16 and F32 hold them.");
    }
    sums = measure_values(values, decoded);
  }
  if (item.head == 0) return bytes;
  std::vector<std::byte> ordered(bytes.size());
  for (std::uint64_t r = 0; r < slice.count; ++r) {
    std::memcpy(ordered.data() + r * row_bytes, bytes.data() + model_row(r, item.head) * row_bytes, row_bytes);
  }
  return ordered;
}

// A slice of a transposed matrix is some columns of every stored row; only these are read.
std::vector<float> TensorWriter::values_of(const Item& item, const Slice& slice) const {
  const LogicalTensor& tensor = *item.sources[slice.source].tensor;
  std::vector<float> values(slice.count * item.cols);
  if (!item.transposed) {
    tensors_.read_rows(tensor, slice.first, slice.count, values);
    return values;
  }
  const TensorView view = checkpoint_.view(*tensor.plain);
  std::vector<float> part(slice.count);
  for (std::uint64_t c = 0; c < item.cols; ++c) {
    read_f32(view, c * tensor.cols + slice.first, part);
    for (std::uint64_t r = 0; r < slice.count; ++r) values[r * item.cols + c] = part[r];
  }
  return values;
}

std::vector<std::byte> TensorWriter::moved_rows(const Item& item, const Slice& slice) const {
  const StoredLinear& linear = *item.sources[slice.source].tensor->linear;
  const std::uint64_t alignment = std::max<std::uint64_t>(1, tensors_.layout()->read_alignment(linear));
  const std::uint64_t skipped = slice.first % alignment, row_bytes = block_bytes(item.type, item.cols);
  QuantizedTensor rows;
  tensors_.layout()->read_rows(checkpoint_, linear, slice.first - skipped, slice.count + skipped, rows);
  const QuantizedTensor blocks = move_to_blocks(rows, item.type);
  std::vector<std::byte> bytes(slice.count * row_bytes);
  std::memcpy(bytes.data(), blocks.blocks.data() + skipped * row_bytes, bytes.size());
  return bytes;
}

std::vector<float> TensorWriter::importance_of(const LogicalTensor& tensor, std::uint64_t cols) const {
  if (options_.importance == nullptr) return {};
  const TensorInfo* info = options_.importance->find(tensor.name);
  if (info == nullptr) return {};
  const TensorView view = options_.importance->view(*info);
  std::vector<float> values(element_count(info->shape));
  if (values.size() != cols) {
    throw Error(ErrorCode::usage, fmt::format("the importance of {} is {}; its weight has {} columns", tensor.name,
                                              to_string(info->shape), cols));
  }
  read_f32(view, 0, values);
  return values;
}

}  // namespace quant::gguf
