#include "shared/whole_weight.h"

#include <omp.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "rtn/parallel_for.h"
#include "shared/checks.h"

namespace quant::shared {
namespace {

constexpr std::uint64_t kSliceWeights = 1U << 16U;

// Rows of a slice: whole units of rows that share a scale.
std::uint64_t slice_rows(const QuantArgs& args, std::uint64_t cols) {
  const std::uint64_t unit = std::max<std::uint64_t>(1, scale_row_alignment(args, cols));
  return unit * std::max<std::uint64_t>(1, kSliceWeights / std::max<std::uint64_t>(1, unit * cols));
}

}  // namespace

QuantizedTensor quantize_slices(const Quantizer& quantizer, const TensorView& weight, const QuantArgs& args,
                                DType scale_dtype, const TensorParams& params, std::span<const float> importance,
                                int threads) {
  const std::uint64_t cols = weight.cols(), rows = weight.rows();
  const std::uint64_t step = slice_rows(args, cols);
  std::vector<QuantizedTensor> slices((rows + step - 1) / step);
  rtn::parallel_for(threads, slices.size(), [&](std::size_t s) {
    const std::uint64_t first = s * step, count = std::min(step, rows - first);
    const bool each = importance.size() > cols;
    quantizer.quantize_rows(weight.slice_rows(first, count), args, scale_dtype, params,
                            each ? importance.subspan(first * cols, count * cols) : importance, slices[s], {});
  });
  QuantizedTensor out;
  if (slices.size() == 1) return std::move(slices.front());
  out.resize(args, rows, cols);
  out.scale_dtype = scale_dtype;
  for (std::size_t s = 0; s < slices.size(); ++s) put_slice(slices[s], s * step, rows, out);
  return out;
}

QuantizedTensor quantize_weight(const Quantizer& quantizer, const TensorView& weight, QuantArgs args,
                                std::span<const float> importance) {
  complete_args(quantizer, args);
  check_importance(importance, weight, quantizer.weighs_each());
  require_finite(weight);  // here, where its rows have their own numbers
  const int threads = omp_get_max_threads();
  const TensorParams params = quantizer.prepare(weight, args, importance, threads);
  return quantize_slices(quantizer, weight, args, args.scale_dtype.value_or(DType::F32), params, importance, threads);
}

}  // namespace quant::shared
