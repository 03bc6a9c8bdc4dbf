// The weights of a model as float32 matrices.
#include <fmt/format.h>

#include <algorithm>

#include "linalg/parallel.h"
#include "quant/error.h"
#include "quant/forward.h"

namespace quant {
namespace {

using linalg::for_tasks;
using linalg::pieces;

// Replacements of slices are kept beside those of whole tensors; no tensor name ends like that.
std::string slice_key(const std::string& tensor, std::int64_t slice) { return fmt::format("{}\n{}", tensor, slice); }
std::string slice_prefix(const std::string& tensor) { return tensor + "\n"; }

const LogicalTensor& find_tensor(const LogicalTensors& tensors, const std::string& name) {
  const LogicalTensor* tensor = tensors.find(name);
  if (tensor != nullptr) return *tensor;
  throw Error(ErrorCode::corrupt_file,
              fmt::format("{} has no tensor '{}'", tensors.checkpoint().location().string(), name),
              "check that all shards of the model are there", "MissingTensor");
}

// Rows [first, first + count) of a matrix of the checkpoint.
void read_matrix(const LogicalTensors& tensors, const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count,
                 std::span<float> out, int threads) {
  const std::uint64_t step = tensors.block_rows(tensor);
  for_tasks(threads, pieces(count, step), [&](std::size_t task) {
    const std::uint64_t row = task * step;
    const std::uint64_t rows = std::min(step, count - row);
    tensors.read_rows(tensor, first + row, rows, out.subspan(row * tensor.cols, rows * tensor.cols));
    tensors.done_reading(tensor, first + row, rows);
  });
  tensors.done_reading(tensor);  // pages that the parts share
}

// out [cols, rows] = in^T for in [rows, cols], by tiles that stay in the cache.
std::vector<float> transposed(std::span<const float> in, std::uint64_t rows, std::uint64_t cols, int threads) {
  constexpr std::uint64_t kTile = 32;
  std::vector<float> out(in.size());
  for_tasks(threads, pieces(cols, kTile), [&](std::size_t task) {
    const std::uint64_t c0 = task * kTile, c1 = std::min(cols, c0 + kTile);
    for (std::uint64_t r0 = 0; r0 < rows; r0 += kTile) {
      const std::uint64_t r1 = std::min(rows, r0 + kTile);
      for (std::uint64_t c = c0; c < c1; ++c) {
        for (std::uint64_t r = r0; r < r1; ++r) out[c * rows + r] = in[r * cols + c];
      }
    }
  });
  return out;
}

[[noreturn]] void throw_shape(const LinearWeight& weight, const std::string& found) {
  throw Error(ErrorCode::corrupt_file,
              fmt::format("'{}' has {}, but '{}' is a linear of {} outputs and {} inputs{}", weight.tensor, found,
                          weight.module, weight.rows, weight.cols, weight.transposed ? ", stored transposed" : ""),
              "config.json and the tensors do not fit together", "WeightShape");
}

// The matrix or slice as it is stored: [rows, cols], or [cols, rows] if transposed.
std::vector<float> read_stored(const LogicalTensors& tensors, const LinearWeight& weight, int threads) {
  const LogicalTensor& tensor = find_tensor(tensors, weight.tensor);
  const std::uint64_t rows = weight.transposed ? weight.cols : weight.rows;
  const std::uint64_t cols = weight.transposed ? weight.rows : weight.cols;
  const auto slice = static_cast<std::uint64_t>(std::max<std::int64_t>(weight.slice, 0));
  const bool fits =
      tensor.cols == cols &&
      (weight.slice < 0 ? tensor.rows == rows : rows != 0 && tensor.rows % rows == 0 && slice < tensor.rows / rows);
  if (!fits) throw_shape(weight, fmt::format("shape {}", to_string(tensor.shape)));
  std::vector<float> out(checked_mul(rows, cols, weight.tensor));
  read_matrix(tensors, tensor, slice * rows, rows, out, threads);
  return out;
}

}  // namespace

std::vector<float> ModelWeights::read(const std::string& tensor, int threads) const {
  if (const auto found = replaced_.find(tensor); found != replaced_.end()) return found->second;
  const LogicalTensor& stored = find_tensor(tensors_, tensor);
  std::vector<float> out(stored.count());
  read_matrix(tensors_, stored, 0, stored.rows, out, threads);
  const std::string prefix = slice_prefix(tensor);
  for (auto at = replaced_.lower_bound(prefix); at != replaced_.end() && at->first.starts_with(prefix); ++at) {
    const std::uint64_t slice = std::stoull(at->first.substr(prefix.size()));
    const std::uint64_t size = at->second.size();
    if (slice < out.size() / size) std::copy(at->second.begin(), at->second.end(), out.begin() + slice * size);
  }
  return out;
}

std::vector<float> ModelWeights::read(const LinearWeight& weight, int threads) const {
  const std::uint64_t size = weight.rows * weight.cols;
  std::vector<float> stored;
  if (const auto slice = replaced_.find(slice_key(weight.tensor, weight.slice)); slice != replaced_.end()) {
    stored = slice->second;
  } else if (const auto whole = replaced_.find(weight.tensor); whole != replaced_.end()) {
    const std::uint64_t first = static_cast<std::uint64_t>(std::max<std::int64_t>(weight.slice, 0)) * size;
    if (first > whole->second.size() || size > whole->second.size() - first) {
      throw_shape(weight, fmt::format("{} values", whole->second.size()));
    }
    const auto begin = whole->second.begin() + static_cast<std::ptrdiff_t>(first);
    stored.assign(begin, begin + static_cast<std::ptrdiff_t>(size));
  } else {
    stored = read_stored(tensors_, weight, threads);
  }
  return weight.transposed ? transposed(stored, weight.cols, weight.rows, threads) : stored;
}

const StoredLinear* ModelWeights::stored_linear(const LinearWeight& weight) const {
  const LogicalTensor* tensor = tensors_.find(weight.tensor);
  const bool own = tensor != nullptr && tensor->linear != nullptr && has_codes(tensor->linear->args) &&
                   !weight.transposed && weight.slice < 0 && tensor->rows == weight.rows && tensor->cols == weight.cols;
  if (!own || replaced_.contains(weight.tensor) || replaced_.contains(slice_key(weight.tensor, weight.slice))) {
    return nullptr;
  }
  return tensor->linear;
}

std::optional<QuantizedTensor> ModelWeights::read_quantized(const LinearWeight& weight, int threads) const {
  if (stored_linear(weight) == nullptr) return std::nullopt;
  const LogicalTensor* tensor = tensors_.find(weight.tensor);
  QuantizedTensor out = tensors_.read_quantized(*tensor, threads);
  tensors_.done_reading(*tensor);
  return out;
}

void ModelWeights::read_rows(const std::string& tensor, std::uint64_t first, std::uint64_t count,
                             std::span<float> out) const {
  const LogicalTensor& stored = find_tensor(tensors_, tensor);
  const auto found = replaced_.find(tensor);
  if (found == replaced_.end()) return tensors_.read_rows(stored, first, count, out);
  if (first > stored.rows || count > stored.rows - first || out.size() != count * stored.cols) {
    throw Error(ErrorCode::internal, fmt::format("rows {} to {} of '{}' {} cannot be read into {} values", first,
                                                 first + count, tensor, to_string(stored.shape), out.size()));
  }
  const auto begin = found->second.begin() + static_cast<std::ptrdiff_t>(first * stored.cols);
  std::copy(begin, begin + static_cast<std::ptrdiff_t>(out.size()), out.begin());
}

void ModelWeights::set(const std::string& tensor, std::vector<float> values) {
  const LogicalTensor& stored = find_tensor(tensors_, tensor);
  if (values.size() != stored.count()) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}' {} cannot be replaced by {} values", tensor, to_string(stored.shape), values.size()));
  }
  drop(tensor);
  replaced_[tensor] = std::move(values);
}

void ModelWeights::set(const LinearWeight& weight, std::vector<float> values) {
  if (values.size() != weight.rows * weight.cols) throw_shape(weight, fmt::format("{} new values", values.size()));
  if (weight.transposed) values = transposed(values, weight.rows, weight.cols, 1);
  if (weight.slice < 0) return set(weight.tensor, std::move(values));
  find_tensor(tensors_, weight.tensor);
  const auto whole = replaced_.find(weight.tensor);
  if (whole == replaced_.end()) {
    replaced_[slice_key(weight.tensor, weight.slice)] = std::move(values);
    return;
  }
  const std::uint64_t first = static_cast<std::uint64_t>(weight.slice) * values.size();
  if (first > whole->second.size() || values.size() > whole->second.size() - first) {
    throw_shape(weight, fmt::format("{} values", whole->second.size()));
  }
  std::copy(values.begin(), values.end(), whole->second.begin() + static_cast<std::ptrdiff_t>(first));
}

void ModelWeights::drop(const std::string& tensor) {
  const std::string prefix = slice_prefix(tensor);
  auto at = replaced_.lower_bound(prefix);
  while (at != replaced_.end() && at->first.starts_with(prefix)) at = replaced_.erase(at);
  replaced_.erase(tensor);
}

}  // namespace quant
