#include "quant/whole_weight.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "linalg/parallel.h"

namespace quant {
namespace {

constexpr std::uint64_t kSliceWeights = 1U << 16U;

// Rows of a slice: whole units of rows that share a scale.
std::uint64_t rows_at_once(const QuantArgs& args, std::uint64_t cols) {
  const std::uint64_t unit = std::max<std::uint64_t>(1, scale_row_alignment(args, cols));
  return unit * std::max<std::uint64_t>(1, kSliceWeights / std::max<std::uint64_t>(1, unit * cols));
}

// Puts slices in their place in order: sparse parts are appended. The few that came early wait.
class InOrder {
 public:
  InOrder(std::uint64_t rows, std::uint64_t step, QuantizedTensor& whole) : rows_(rows), step_(step), whole_(whole) {}

  void put(std::size_t slice, QuantizedTensor coded) {
    const std::lock_guard lock(mutex_);
    waiting_.emplace(slice, std::move(coded));
    for (auto first = waiting_.begin(); first != waiting_.end() && first->first == next_; ++next_) {
      put_slice(first->second, next_ * step_, rows_, whole_);
      first = waiting_.erase(first);
    }
  }

 private:
  std::uint64_t rows_, step_;
  QuantizedTensor& whole_;
  std::mutex mutex_;
  std::map<std::size_t, QuantizedTensor> waiting_;
  std::size_t next_ = 0;
};

}  // namespace

QuantizedTensor quantize_slices(const Quantizer& quantizer, const TensorView& weight, const QuantArgs& args,
                                DType scale_dtype, const TensorParams& params, std::span<const float> importance,
                                int threads) {
  const std::uint64_t cols = weight.cols(), rows = weight.rows();
  const std::uint64_t step = rows_at_once(args, cols);
  QuantizedTensor out;
  out.resize(args, rows, cols);
  out.scale_dtype = scale_dtype;
  InOrder slices(rows, step, out);
  linalg::for_tasks(threads, linalg::pieces(rows, step), [&](std::size_t s) {
    const std::uint64_t first = s * step, count = std::min(step, rows - first);
    TensorParams here = params;
    here.first_row = first;
    const bool each = importance.size() > cols;
    QuantizedTensor coded;
    quantizer.quantize_rows(weight.slice_rows(first, count), args, scale_dtype, here,
                            each ? importance.subspan(first * cols, count * cols) : importance, coded, {});
    slices.put(s, std::move(coded));
  });
  return out;
}

}  // namespace quant
