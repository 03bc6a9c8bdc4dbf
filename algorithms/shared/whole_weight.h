// A whole weight coded by a quantizer of slices.
#pragma once

#include <span>

#include "quant/algorithm.h"

namespace quant::shared {

/// Codes slices of about 2^16 weights on up to `threads` threads, as a run does; the result does not depend on them.
/// `params`: of quantizer.prepare. `importance`: as quantizer.weighs_each() allows. Throws what the quantizer throws.
QuantizedTensor quantize_slices(const Quantizer& quantizer, const TensorView& weight, const QuantArgs& args,
                                DType scale_dtype, const TensorParams& params, std::span<const float> importance,
                                int threads);

/// Completes and checks the arguments, prepares, and codes on all processors; scales of args.scale_dtype, else F32.
/// What the functions for C++ programs do. Throws Error{usage} and what the quantizer throws.
QuantizedTensor quantize_weight(const Quantizer& quantizer, const TensorView& weight, QuantArgs args,
                                std::span<const float> importance);

}  // namespace quant::shared
