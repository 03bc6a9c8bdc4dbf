// How float32 rows become operands of products.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quant/linalg.h"

namespace quant::linalg {

/// What a product's operands are in memory.
enum class Operand {
  f32,
  bf16,        ///< 2 bytes each, for processors that multiply them
  rounded_f32  ///< float32 rounded to BF16, for processors that do not
};
Operand operand_of(ProductType type);
/// Bytes of one element.
std::size_t operand_bytes(Operand operand);
/// Converts `count` elements; `out` has operand_bytes each.
void to_operand(const float* in, std::uint64_t count, Operand operand, void* out);
/// out = to_operand(a - x).
void difference_to_operand(const float* a, const float* x, std::uint64_t count, Operand operand, void* out);

}  // namespace quant::linalg
