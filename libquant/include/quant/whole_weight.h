// A whole weight coded by a quantizer of slices.
#pragma once

#include <span>

#include "quant/algorithm.h"

namespace quant {

/// Codes `weight` [rows, cols] in slices of about 2^16 weights (whole units of rows that share a scale) on up to
/// `threads` threads; the result does not depend on their number. `params`: of quantizer.prepare for the whole weight.
/// `importance`: [cols], [rows * cols] if quantizer.weighs_each(), or empty. Throws what the quantizer throws; rows in
/// such messages are those of the slice.
QuantizedTensor quantize_slices(const Quantizer& quantizer, const TensorView& weight, const QuantArgs& args,
                                DType scale_dtype, const TensorParams& params, std::span<const float> importance,
                                int threads);

}  // namespace quant
