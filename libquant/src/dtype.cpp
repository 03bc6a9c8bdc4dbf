#include "quant/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string_view>

namespace quant {
namespace {

struct DTypeFacts {
  std::string_view name;
  std::string_view torch_name;
  unsigned bits;
  bool floating;
  float epsilon;
};

// In the order of the enumeration.
constexpr std::array<DTypeFacts, kDTypeCount> kFacts{{
    {"U64", "uint64", 64, false, 1},
    {"I64", "int64", 64, false, 1},
    {"F64", "float64", 64, true, 2.220446049250313e-16F},
    {"C64", "complex64", 64, false, 1},
    {"F32", "float32", 32, true, 1.1920928955078125e-7F},
    {"U32", "uint32", 32, false, 1},
    {"I32", "int32", 32, false, 1},
    {"BF16", "bfloat16", 16, true, 0.0078125F},
    {"F16", "float16", 16, true, 0.0009765625F},
    {"U16", "uint16", 16, false, 1},
    {"I16", "int16", 16, false, 1},
    {"F8_E5M2FNUZ", "float8_e5m2fnuz", 8, true, 0.25F},
    {"F8_E4M3FNUZ", "float8_e4m3fnuz", 8, true, 0.125F},
    {"F8_E8M0", "float8_e8m0fnu", 8, true, 1},
    {"F8_E4M3", "float8_e4m3fn", 8, true, 0.125F},
    {"F8_E5M2", "float8_e5m2", 8, true, 0.25F},
    {"I8", "int8", 8, false, 1},
    {"U8", "uint8", 8, false, 1},
    {"F6_E2M3", "", 6, true, 0.125F},
    {"F6_E3M2", "", 6, true, 0.25F},
    {"F4", "", 4, true, 0.5F},
    {"BOOL", "bool", 8, false, 1},
}};

const DTypeFacts& facts(DType type) { return kFacts[static_cast<std::size_t>(type)]; }

// A small float with `mantissa` bits and exponent bias `bias`; special values are the caller's business.
float decode_small_float(unsigned magnitude, int mantissa, int bias) {
  const unsigned exponent = magnitude >> mantissa;
  const unsigned fraction = magnitude & ((1U << mantissa) - 1U);
  const float significand =
      static_cast<float>(exponent == 0 ? fraction : fraction + (1U << mantissa)) / static_cast<float>(1U << mantissa);
  return std::ldexp(significand, (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias);
}

// Magnitude code of a finite value >= 0, round half to even, without saturation.
unsigned encode_small_float(float value, int mantissa, int bias) {
  if (value == 0.0F) return 0;
  int exponent = 0;
  std::frexp(value, &exponent);  // value = f * 2^exponent, f in [0.5, 1)
  const int unbiased = std::max(exponent - 1, 1 - bias);
  const float steps = std::ldexp(value, mantissa - unbiased);  // exact: a power of two
  const auto rounded = static_cast<unsigned>(std::nearbyint(steps));
  const auto base = static_cast<unsigned>(unbiased + bias - 1) << mantissa;
  return base + rounded;  // a carry out of the mantissa raises the exponent
}

std::uint8_t encode_saturating(float value, int mantissa, int bias, float largest, unsigned largest_code,
                               unsigned nan_code) {
  const unsigned sign = std::signbit(value) ? 0x80U : 0U;
  if (std::isnan(value)) return static_cast<std::uint8_t>(sign | nan_code);
  const float magnitude = std::fabs(value);
  if (magnitude >= largest) return static_cast<std::uint8_t>(sign | largest_code);
  return static_cast<std::uint8_t>(sign | encode_small_float(magnitude, mantissa, bias));
}

constexpr std::array<float, 8> kE2M1{0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};

}  // namespace

unsigned dtype_bits(DType type) { return facts(type).bits; }
std::string_view dtype_name(DType type) { return facts(type).name; }
std::string_view torch_dtype_name(DType type) { return facts(type).torch_name; }
bool is_floating(DType type) { return facts(type).floating; }
float dtype_epsilon(DType type) { return facts(type).epsilon; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (int i = 0; i < kDTypeCount; ++i) {
    if (kFacts[static_cast<std::size_t>(i)].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<DType> parse_torch_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  if (name.empty()) return std::nullopt;
  for (int i = 0; i < kDTypeCount; ++i) {
    if (kFacts[static_cast<std::size_t>(i)].torch_name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7FFFU;
  if (magnitude > 0x7C00U) return std::bit_cast<float>(sign | 0x7FC00000U | (magnitude & 0x3FFU) << 13);  // quieted
  if (magnitude == 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U);
  const float value = decode_small_float(magnitude, 10, 15);
  return sign != 0 ? -value : value;
}

std::uint16_t f32_to_f16(float value) {
  constexpr std::uint32_t kSmallestNormal = 0x38800000U;  // 2^-14
  constexpr std::uint32_t kOverflow = 0x477FF000U;        // 65520, half way past the largest value
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U | ((bits >> 13) & 0x1FFU));
  if (magnitude >= kOverflow) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < kSmallestNormal) {
    // Beside 0.5 the last place of a float32 is 2^-24, that of the subnormals: the addition rounds as they need it.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<std::uint16_t>(sign | ((magnitude - (112U << 23) + 0xFFFU + odd) >> 13));
}

float bf16_to_f32(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

float e4m3_to_f32(std::uint8_t bits) {
  const float sign = (bits & 0x80U) != 0 ? -1.0F : 1.0F;
  if ((bits & 0x7FU) == 0x7FU) return std::copysign(std::bit_cast<float>(0x7FC00000U), sign);
  return sign * decode_small_float(bits & 0x7FU, 3, 7);
}

std::uint8_t f32_to_e4m3(float value) { return encode_saturating(value, 3, 7, 448.0F, 0x7EU, 0x7FU); }

float e5m2_to_f32(std::uint8_t bits) { return f16_to_f32(static_cast<std::uint16_t>(bits << 8)); }

std::uint8_t f32_to_e5m2(float value) { return encode_saturating(value, 2, 15, 57344.0F, 0x7BU, 0x7FU); }

float e2m1_to_f32(std::uint8_t bits) {
  const float magnitude = kE2M1[bits & 7U];
  return (bits & 8U) != 0 ? -magnitude : magnitude;
}

std::uint8_t f32_to_e2m1(float value) {
  const unsigned sign = std::signbit(value) ? 8U : 0U;
  const float magnitude = std::fabs(value);
  // Boundaries half way between neighbours; a tie goes to the even code.
  unsigned code = 7;
  if (magnitude <= 0.25F)
    code = 0;
  else if (magnitude < 0.75F)
    code = 1;
  else if (magnitude <= 1.25F)
    code = 2;
  else if (magnitude < 1.75F)
    code = 3;
  else if (magnitude <= 2.5F)
    code = 4;
  else if (magnitude < 3.5F)
    code = 5;
  else if (magnitude <= 5.0F)
    code = 6;
  return static_cast<std::uint8_t>(sign | code);
}

float e8m0_to_f32(std::uint8_t bits) {
  if (bits == 255) return std::bit_cast<float>(0x7FC00000U);
  return std::ldexp(1.0F, static_cast<int>(bits) - 127);
}

float round_to_dtype(DType type, float value) {
  switch (type) {
    case DType::F16:
      return f16_to_f32(f32_to_f16(value));
    case DType::BF16:
      return bf16_to_f32(f32_to_bf16(value));
    case DType::F8_E4M3:
      return e4m3_to_f32(f32_to_e4m3(value));
    case DType::F8_E5M2:
      return e5m2_to_f32(f32_to_e5m2(value));
    default:
      return value;
  }
}

}  // namespace quant
