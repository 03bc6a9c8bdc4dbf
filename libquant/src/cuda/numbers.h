// Small floating types: conversions that give the same bits on host and device.
#pragma once

#include "cuda/target.h"

namespace quant::cuda {

/// To nearest, ties to even; a NaN stays one.
QUANT_HD uint32_t bf16_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return ((bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000U : rounded) >> 16;
}

QUANT_HD float bf16_to_float(uint32_t bits) { return float_of(bits << 16); }

/// F16 with all its values: subnormal numbers by way of an exact multiplication.
QUANT_HD float f16_to_float(uint32_t bits) {
  const uint32_t magnitude = (bits & 0x7FFFU) << 13;
  const uint32_t sign = (bits & 0x8000U) << 16;
  if (magnitude >= 0x0F800000U) return float_of(sign | (magnitude + 0x70000000U));  // infinity or NaN
  return float_of(sign | bits_of(float_of(magnitude) * 0x1p112F));
}

/// Part 0, 1 or 2 of a number whose significand is cut into three of 8 bits: parts are BF16 numbers and their sum is
/// the number, if it is not below 2^-110.
QUANT_HD uint32_t bf16_part(float value, uint32_t part) {
  QUANT_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    if (i < part) value -= float_of(bits_of(value) & 0xFFFF0000U);
  }
  return bits_of(value) >> 16;
}

/// Two BF16 numbers in one register, the first in the low half.
QUANT_HD uint32_t pair_of(uint32_t first, uint32_t second) { return first | (second << 16); }

/// a * b + c of both halves, each rounded once.
QUANT_HD uint32_t fused_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDA_ARCH__)
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
#else
  uint32_t result = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t shift = 16 * half;
    // The product of two 8-bit significands is exact in double, and so is every sum that the kernels form.
    const double exact = static_cast<double>(bf16_to_float((a >> shift) & 0xFFFFU)) *
                             static_cast<double>(bf16_to_float((b >> shift) & 0xFFFFU)) +
                         static_cast<double>(bf16_to_float((c >> shift) & 0xFFFFU));
    result |= bf16_of(static_cast<float>(exact)) << shift;
  }
  return result;
#endif
}

enum class ScaleType : uint8_t { none, f32, bf16, f16 };

/// scales[index]; 1 where there are none.
QUANT_HD float load_scale(ScaleType type, const void* scales, uint64_t index) {
  if (type == ScaleType::none) return 1.0F;
  if (type == ScaleType::f32) return static_cast<const float*>(scales)[index];
  const uint32_t bits = static_cast<const uint16_t*>(scales)[index];
  return type == ScaleType::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
}

}  // namespace quant::cuda
