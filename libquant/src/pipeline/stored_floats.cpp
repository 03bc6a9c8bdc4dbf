#include "pipeline/stored_floats.h"

#include <cmath>
#include <limits>

namespace quant {
namespace {

float largest(DType type) {
  return type == DType::F16 ? 65504.0F : type == DType::BF16 ? 0x1.FEp127F : std::numeric_limits<float>::max();
}

}  // namespace

float nearest_finite(DType type, float value) {
  const float rounded = round_to_dtype(type, value);
  return std::isinf(rounded) ? std::copysign(largest(type), value) : rounded;
}

std::uint64_t clamp_to_finite(DType type, std::span<float> values) {
  if (type != DType::F16 && type != DType::BF16) return 0;
  std::uint64_t count = 0;
  for (float& value : values) {
    if (std::isnan(value) || std::fabs(value) <= largest(type) || std::isfinite(round_to_dtype(type, value))) continue;
    value = std::copysign(largest(type), value);
    ++count;
  }
  return count;
}

}  // namespace quant
