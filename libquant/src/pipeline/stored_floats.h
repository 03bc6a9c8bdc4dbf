// Floats on their way into a type of fewer values.
#pragma once

#include <cstdint>
#include <span>

#include "quant/dtype.h"

namespace quant {

/// `value` rounded to the nearest finite value of `type` (F32, F16, BF16).
float nearest_finite(DType type, float value);
/// Replaces what would be stored as infinity by the largest finite number of its sign, and counts it. Values that the
/// type has keep their bits; others are rounded when they are stored.
std::uint64_t clamp_to_finite(DType type, std::span<float> values);

}  // namespace quant
