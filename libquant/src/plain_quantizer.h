// Keeps weights as floating-point numbers: the last step of linears that are pruned but not quantized.
#pragma once

#include <memory>

#include "quant/algorithm.h"

namespace quant {

/// Rounds to the type of scales and does nothing else. Throws Error{numerical} for what is not finite in that type.
std::unique_ptr<Quantizer> make_plain_quantizer();

}  // namespace quant
