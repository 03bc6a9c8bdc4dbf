#include "shared/whole_weight.h"

#include <omp.h>

#include <utility>

#include "quant/whole_weight.h"
#include "shared/checks.h"

namespace quant::shared {
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
