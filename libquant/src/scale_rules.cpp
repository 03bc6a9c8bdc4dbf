#include "quant/scale_rules.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant {
namespace {

RoundTo round_of(DType type) {
  switch (type) {
    case DType::F32:
      return RoundTo::f32;
    case DType::F16:
      return RoundTo::f16;
    case DType::BF16:
      return RoundTo::bf16;
    case DType::F8_E4M3:
      return RoundTo::e4m3;
    case DType::F8_E5M2:
      return RoundTo::e5m2;
    default:
      throw Error(ErrorCode::unsupported, "scales cannot be stored as " + std::string(dtype_name(type)),
                  "use F32, F16, BF16 or F8_E4M3");
  }
}

float divisor_of(const QuantArgs& args) {
  if (args.type == NumberType::floating) return float_max(args);
  const float range = static_cast<float>(code_max(args) - code_min(args));
  if (!args.symmetric) return range;
  switch (symmetric_range(args)) {
    case SymmetricRange::standard:
      return range / 2;
    case SymmetricRange::restricted:
      return static_cast<float>(code_max(args));
    case SymmetricRange::full:
      return static_cast<float>(code_min(args));
  }
  return range / 2;
}

// compressed-tensors' rule: the exponent of absmax after its significand was rounded up from 1.75, less the exponent of
// the largest element, at least 2^-127.
float mx_scale(float absmax, int offset) {
  const std::uint32_t rounded = std::bit_cast<std::uint32_t>(absmax) + 0x200000U;
  const int code = std::max(static_cast<int>(rounded >> 23) - offset, 0);
  return std::bit_cast<float>(code == 0 ? 0x00400000U : static_cast<std::uint32_t>(code) << 23);
}

void finish_scales(const ScaleRules& rules, std::span<float> scales) {
  if (rules.two_level) {
    for (float& scale : scales) scale *= rules.global_scale;
  }
  kernels().round_values(rules.round, scales.data(), scales.size());
  for (float& scale : scales) scale = scale == 0 ? rules.zero_scale : scale;
}

// minima become zero points.
void zero_points_of(const ScaleRules& rules, std::span<const float> minima, std::span<const float> maxima,
                    std::span<const float> scales, std::span<float> zero_points) {
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const float at = rules.code_min - minima[i] / scales[i];
    const float clamped = std::min(std::max(at, rules.code_min), rules.code_max);
    zero_points[i] = minima[i] == maxima[i] ? 0.0F : std::nearbyint(clamped);  // equal only if both are 0
  }
}

}  // namespace

ScaleRules make_scale_rules(const QuantArgs& args, DType scale_dtype, float global_scale) {
  ScaleRules rules;
  rules.element = element_of(element_dtype(args));
  rules.symmetric = args.symmetric;
  rules.convention = symmetric_range(args);
  rules.code_min = static_cast<float>(code_min(args));
  rules.code_max = static_cast<float>(code_max(args));
  rules.divisor = divisor_of(args);
  rules.mx = is_mx(args);
  rules.mx_offset = rules.element == Element::e2m1 ? 2 : rules.element == Element::e4m3 ? 8 : 15;
  rules.two_level = is_nvfp4(args);
  rules.global_scale = global_scale;
  if (rules.mx) return rules;
  rules.round = round_of(scale_dtype);
  rules.zero_scale = dtype_epsilon(scale_dtype);
  return rules;
}

void scales_of_absmax(const ScaleRules& rules, std::span<const float> absmax, std::span<float> scales) {
  if (rules.mx) {
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = mx_scale(absmax[i], rules.mx_offset);
    return;
  }
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = absmax[i] / rules.divisor;
  finish_scales(rules, scales);
}

void scales_of_ranges(const ScaleRules& rules, std::span<float> minima, std::span<float> maxima,
                      std::span<float> scales, std::span<float> zero_points) {
  for (std::size_t i = 0; i < scales.size(); ++i) {
    minima[i] = std::min(minima[i], 0.0F);  // zero must be representable
    maxima[i] = std::max(maxima[i], 0.0F);
  }
  if (!rules.symmetric) {
    for (std::size_t i = 0; i < scales.size(); ++i) {
      const float range = maxima[i] - minima[i];
      scales[i] = range <= std::numeric_limits<float>::max() ? range / rules.divisor
                                                             : maxima[i] / rules.divisor - minima[i] / rules.divisor;
    }
    finish_scales(rules, scales);
    return zero_points_of(rules, minima, maxima, scales, zero_points);
  }
  if (rules.element == Element::integer && rules.convention == SymmetricRange::full) {
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = (-minima[i] >= maxima[i] ? minima[i] : maxima[i]) / rules.divisor;
    }
    return finish_scales(rules, scales);
  }
  for (std::size_t i = 0; i < scales.size(); ++i) maxima[i] = std::max(-minima[i], maxima[i]);
  scales_of_absmax(rules, maxima, scales);
}

void effective_scales(const ScaleRules& rules, std::span<const float> scales, std::span<float> effective) {
  for (std::size_t i = 0; i < scales.size(); ++i) {
    effective[i] = rules.two_level ? scales[i] / rules.global_scale : scales[i];
  }
}

}  // namespace quant
