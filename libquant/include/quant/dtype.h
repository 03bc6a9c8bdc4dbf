// Element types of checkpoints, and exact conversion of single values.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace quant {

/// Every element type of the safetensors format. F8_E4M3 is the "FN" form (no infinity, largest value 448).
enum class DType : std::uint8_t {
  U64,
  I64,
  F64,
  C64,
  F32,
  U32,
  I32,
  BF16,
  F16,
  U16,
  I16,
  F8_E5M2FNUZ,
  F8_E4M3FNUZ,
  F8_E8M0,
  F8_E4M3,
  F8_E5M2,
  I8,
  U8,
  F6_E2M3,
  F6_E3M2,
  F4,
  BOOL
};

inline constexpr int kDTypeCount = 22;

/// Bits of one element: 4 (F4) to 64.
unsigned dtype_bits(DType type);
/// The name used in files: "BF16".
std::string_view dtype_name(DType type);
/// Exact, case-sensitive match of a name used in files.
std::optional<DType> parse_dtype(std::string_view name);
/// PyTorch's spelling, as config.json has it: "bfloat16", "float8_e4m3fn". Empty where PyTorch has none.
std::string_view torch_dtype_name(DType type);
/// Accepts "bfloat16" and "torch.bfloat16".
std::optional<DType> parse_torch_dtype(std::string_view name);
/// True for types whose elements are read as real numbers by read_f32 (F64, F32, F16, BF16, all F8, F6 and F4).
bool is_floating(DType type);
/// Distance from 1 to the next larger value: 2^-10 for F16, 2^-7 for BF16, 2^-23 for F32, 0.125 for F8_E4M3.
/// 1 for integer types.
float dtype_epsilon(DType type);

/// Exact; a NaN is quieted.
float f16_to_f32(std::uint16_t bits);
/// Round to nearest, ties to even; overflow gives infinity; NaN stays NaN.
std::uint16_t f32_to_f16(float value);
float bf16_to_f32(std::uint16_t bits);
/// Round to nearest, ties to even; NaN is quieted.
std::uint16_t f32_to_bf16(float value);
float e4m3_to_f32(std::uint8_t bits);
/// Round to nearest, ties to even, saturating at +-448; NaN gives 0x7F with the sign.
std::uint8_t f32_to_e4m3(float value);
float e5m2_to_f32(std::uint8_t bits);
/// Round to nearest, ties to even, saturating at +-57344; NaN gives 0x7F with the sign.
std::uint8_t f32_to_e5m2(float value);
/// The low 4 bits of `bits`: sign, 2 exponent bits, 1 mantissa bit. Magnitudes 0 .5 1 1.5 2 3 4 6.
float e2m1_to_f32(std::uint8_t bits);
/// Round to nearest, ties to the even code, saturating at +-6. The sign of a value that rounds to zero is kept (code
/// 8).
std::uint8_t f32_to_e2m1(float value);
/// 2^(bits - 127); 255 is NaN.
float e8m0_to_f32(std::uint8_t bits);

/// `value` rounded to the nearest value of `type` (F32, F16, BF16, F8_E4M3, F8_E5M2) and returned as float.
float round_to_dtype(DType type, float value);

}  // namespace quant
