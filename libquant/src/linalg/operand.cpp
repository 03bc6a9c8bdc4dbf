#include "linalg/operand.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "linalg/onednn.h"
#include "quant/error.h"

namespace quant {

ProductType fastest_product_type() { return linalg::has_native_bf16() ? ProductType::bf16 : ProductType::f32; }

namespace linalg {
namespace {

// To nearest, ties to even; a NaN stays one. Without a branch, so that compilers make vectors of it.
std::uint32_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return ((bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000U : rounded) >> 16;
}

template <class Source>
void convert(const Source& source, std::uint64_t count, Operand operand, void* out) {
  if (operand == Operand::bf16) {
    auto* to = static_cast<std::uint16_t*>(out);
    for (std::uint64_t i = 0; i < count; ++i) to[i] = static_cast<std::uint16_t>(bf16_bits(source(i)));
    return;
  }
  auto* to = static_cast<float*>(out);
  if (operand == Operand::f32) {
    for (std::uint64_t i = 0; i < count; ++i) to[i] = source(i);
  } else {
    for (std::uint64_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(bf16_bits(source(i)) << 16);
  }
}

}  // namespace

Operand operand_of(ProductType type) {
  if (type == ProductType::f32) return Operand::f32;
  return has_native_bf16() ? Operand::bf16 : Operand::rounded_f32;
}

std::size_t operand_bytes(Operand operand) { return operand == Operand::bf16 ? sizeof(std::uint16_t) : sizeof(float); }

void to_operand(const float* in, std::uint64_t count, Operand operand, void* out) {
  convert([in](std::uint64_t i) { return in[i]; }, count, operand, out);
}

void difference_to_operand(const float* a, const float* x, std::uint64_t count, Operand operand, void* out) {
  convert([a, x](std::uint64_t i) { return a[i] - x[i]; }, count, operand, out);
}

}  // namespace linalg
}  // namespace quant
