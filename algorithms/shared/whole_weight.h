// A whole weight coded with arguments that are checked first.
#pragma once

#include <span>

#include "quant/algorithm.h"

namespace quant::shared {

/// Completes and checks the arguments, prepares, and codes on all processors; scales of args.scale_dtype, else F32.
/// What the functions for C++ programs do. Throws Error{usage} and what the quantizer throws.
QuantizedTensor quantize_weight(const Quantizer& quantizer, const TensorView& weight, QuantArgs args,
                                std::span<const float> importance);

}  // namespace quant::shared
