// The reference: codes in rows, a bit string each, and a kernel that follows dequantize_row to the letter. It takes
// every codec and every shape.
#pragma once

#include "cuda/numbers.h"

namespace quant::cuda {

enum class PlainKind : uint8_t {
  integer,       // (code - zero) * scale
  table,         // table[code] * scale
  table_of_unit  // tables[unit][code]
};

/// A matrix as dequantize_row sees it (quant/quantized_tensor.h), in device memory.
struct PlainMatrix {
  PlainKind kind;
  uint32_t bits;            // per code, 1 to 8; stored without a sign
  int32_t offset;           // stored code = code + offset
  uint64_t rows, cols;      //
  uint64_t words;           // of a row, one more than its codes fill
  const uint32_t* codes;    // [rows][words]: code c has the bits c * bits .. of the row's string
  const float* scales;      // [units], or null
  const int8_t* zeros;      // [units], or null
  const float* real_zeros;  // [units], or null
  const float* table;       // [2^bits] or [units][2^bits], or null
  const int32_t* groups;    // [cols], or null: columns are grouped in order
  uint64_t row_extent, col_extent, grid_cols, flat;
  float global_scale;  // NVFP4: scales are divided by it
};

QUANT_HD uint32_t plain_code(const PlainMatrix& m, uint64_t row, uint64_t col) {
  const uint64_t bit = col * m.bits;
  const uint32_t* words = m.codes + row * m.words + bit / 32;
  const uint64_t both = words[0] | (static_cast<uint64_t>(words[1]) << 32);
  return static_cast<uint32_t>(both >> (bit % 32)) & ((1U << m.bits) - 1U);
}

QUANT_HD uint64_t plain_unit(const PlainMatrix& m, uint64_t row, uint64_t col) {
  if (m.flat != 0) return (row * m.cols + col) / m.flat;
  const uint64_t group = m.groups != nullptr ? static_cast<uint64_t>(m.groups[col]) : col / m.col_extent;
  return row / m.row_extent * m.grid_cols + group;
}

QUANT_HD float plain_scale(const PlainMatrix& m, uint64_t unit) {
  if (m.scales == nullptr) return 1.0F;
  return m.global_scale == 1.0F ? m.scales[unit] : m.scales[unit] / m.global_scale;
}

/// Code less zero point: what 8-bit inputs are multiplied by. Integers with whole zero points only.
QUANT_HD int32_t plain_integer(const PlainMatrix& m, uint64_t row, uint64_t col, uint64_t unit) {
  const int32_t code = static_cast<int32_t>(plain_code(m, row, col)) - m.offset;
  return m.zeros == nullptr ? code : code - m.zeros[unit];
}

QUANT_HD float plain_weight(const PlainMatrix& m, uint64_t row, uint64_t col) {
  const uint64_t unit = plain_unit(m, row, col);
  const float scale = plain_scale(m, unit);
  if (m.kind == PlainKind::integer) {
    if (m.real_zeros == nullptr) return static_cast<float>(plain_integer(m, row, col, unit)) * scale;
    const int32_t code = static_cast<int32_t>(plain_code(m, row, col)) - m.offset;
    return (static_cast<float>(code) - m.real_zeros[unit]) * scale;
  }
  const uint64_t start = m.kind == PlainKind::table_of_unit ? unit << m.bits : 0;
  return m.table[start + plain_code(m, row, col)] * scale;
}

/// y [tokens][rows] = x W^T. A warp takes one row and kPlainTokens tokens; its lanes take columns in turns.
struct PlainProduct {
  PlainMatrix matrix;
  const float* x;              // [tokens][cols], or null: 8-bit codes instead
  const int8_t* codes;         // [tokens][cols]
  const float* scales;         // [tokens][segments]
  uint64_t segments, segment;  // of `segment` columns each
  bool round;                  // inputs and weights to BF16
  uint64_t tokens;
  float* y;
};

constexpr uint64_t kPlainTokens = 8;

struct PlainLane {
  float sums[kPlainTokens];
};

QUANT_HD void add_plain_column(const PlainProduct& p, uint64_t row, uint64_t col, uint64_t first, PlainLane& lane) {
  const PlainMatrix& m = p.matrix;
  const bool integers = p.x == nullptr;
  const uint64_t unit = plain_unit(m, row, col);
  float weight = integers ? plain_scale(m, unit) : plain_weight(m, row, col);
  const int32_t whole = integers ? plain_integer(m, row, col, unit) : 0;
  if (p.round) weight = bf16_to_float(bf16_of(weight));
  QUANT_UNROLL
  for (uint64_t i = 0; i < kPlainTokens; ++i) {
    const uint64_t token = first + i;
    if (token >= p.tokens) break;
    if (integers) {
      const int32_t product = whole * p.codes[token * m.cols + col];
      const float scale = weight * p.scales[token * p.segments + col / p.segment];
      lane.sums[i] = fused(static_cast<float>(product), scale, lane.sums[i]);
      continue;
    }
    const float x = p.x[token * m.cols + col];
    lane.sums[i] = fused(p.round ? bf16_to_float(bf16_of(x)) : x, weight, lane.sums[i]);
  }
}

/// Warp `index` of plain_warps.
template <class Warp>
QUANT_HD void plain_product(Warp& warp, const PlainProduct& p, uint64_t index) {
  const uint64_t row = index % p.matrix.rows, first = index / p.matrix.rows * kPlainTokens;
  if (first >= p.tokens) return;
  warp.each([&](uint32_t place, PlainLane& lane) {
    for (float& sum : lane.sums) sum = 0.0F;
    for (uint64_t col = place; col < p.matrix.cols; col += 32) add_plain_column(p, row, col, first, lane);
  });
  QUANT_UNROLL
  for (uint64_t i = 0; i < kPlainTokens; ++i) {
    if (first + i >= p.tokens) break;
    warp.sum([i](PlainLane& lane) -> float& { return lane.sums[i]; });
    warp.each([&](uint32_t place, PlainLane& lane) {
      if (place == 0) p.y[(first + i) * p.matrix.rows + row] = lane.sums[i];
    });
  }
}

inline uint64_t plain_warps(const PlainProduct& p) {
  return p.matrix.rows * ((p.tokens + kPlainTokens - 1) / kPlainTokens);
}

}  // namespace quant::cuda
