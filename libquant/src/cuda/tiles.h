// The layout that the tensor-core kernels read, and how its codes become operands of mma instructions.
//
// Rows come in strips of 16, columns in steps of 128, a step in 8 runs of 16 columns. The operand of an instruction
// (PTX ISA, "Matrix Fragments for mma.m16n8k16" and ".m16n8k32") gives lane 4 g + t of a warp the rows g and g + 8.
// Which columns it gets is free, since a sum has no order: here columns 4 t .. 4 t + 3 of each run, so that a lane's
// inputs lie side by side (inputs.h) and each run is 16 columns that follow each other, which small groups need.
// A lane's codes of a step are b / 2 loads of 16 bytes; those of the 32 lanes lie side by side.
#pragma once

#include "cuda/numbers.h"

namespace quant::cuda {

constexpr uint32_t kStripRows = 16;
constexpr uint32_t kStepColumns = 128;
constexpr uint32_t kRun = 16;
constexpr uint32_t kStepRuns = kStepColumns / kRun;
constexpr uint32_t kStepBlocks = kStepRuns / 2;

enum class TileKind : uint8_t {
  integer,  // 2, 4 or 8 bits: code - offset - zero
  table,    // 4 bits: table[code]
  e4m3,     // 8 bits, not NaN
  e5m2      // 8 bits, finite
};

/// A matrix in device memory. A weight is (value(code) - zero) * scale * factor.
struct TileMatrix {
  TileKind kind;
  uint8_t bits;
  ScaleType scale_type;
  uint8_t planes;          // tables whose values add up to the table: 1 if BF16 holds it, else 3
  int32_t offset;          // of integers: 2^(bits - 1)
  uint64_t rows;           //
  uint32_t strips, steps;  //
  uint32_t groups;         // scales of a row
  uint32_t group_columns;  // per scale: 16, 32, 64 or a multiple of 128
  uint32_t group_runs;     // within a step: 1, 2, 4 or 8
  const uint32_t* codes;   // [strips][steps][bits / 2][32 lanes][4]
  const void* scales;      // [strips][groups][16]
  const int8_t* zeros;     // [strips][groups][16], or null
  const uint32_t* table;   // [planes][8]: low bytes of 16 BF16 numbers, then high bytes
};

/// Where the code of a row and a column of a step lies among a lane's words of that step.
struct CodePlace {
  uint32_t lane, word, shift;
};

QUANT_HD CodePlace code_place(TileKind kind, uint32_t bits, uint32_t row, uint32_t column) {
  const uint32_t run = column / kRun, t = column % kRun / 4, j = column % 4, half = row / 8;
  const uint32_t lane = row % 8 * 4 + t;
  // Tables are looked up for four columns of a row at once; others are decoded as pairs of columns, one in each half.
  if (kind == TileKind::table) return {lane, run, 16 * half + 4 * j};
  const uint32_t pair = 4 * run + half + 2 * (j / 2), pairs = 16 / bits;  // of one word
  return {lane, pair / pairs, 16 * (j % 2) + bits * (pair % pairs)};
}

/// The group of a step's run. Padding after the last group has that of the last one.
QUANT_HD uint32_t group_of_run(const TileMatrix& m, uint32_t step, uint32_t run) {
  const uint32_t group = (step * kStepColumns + run * kRun) / m.group_columns;
  return group < m.groups ? group : m.groups - 1;
}

QUANT_HD uint64_t scale_place(const TileMatrix& m, uint32_t strip, uint32_t group, uint32_t row) {
  return (static_cast<uint64_t>(strip) * m.groups + group) * kStripRows + row;
}

QUANT_HD uint64_t words_of_step(uint32_t bits) { return bits / 2 * 32 * 4; }

/// ---- one weight at a time: for dense products

QUANT_HD float table_value(const TileMatrix& m, uint32_t code) {
  float value = 0.0F;
  for (uint32_t plane = m.planes; plane-- > 0;) {
    const uint32_t* table = m.table + 8 * plane;
    const uint32_t low = table[code / 4] >> (8 * (code % 4)), high = table[4 + code / 4] >> (8 * (code % 4));
    value += bf16_to_float((low & 0xFFU) | ((high & 0xFFU) << 8));
  }
  return value;
}

/// Of 8 bits, whose exponents have `exponent_bits`.
QUANT_HD float small_float(uint32_t code, uint32_t exponent_bits) {
  const uint32_t shift = exponent_bits == 4 ? 20 : 21;
  const float moved = float_of(((code & 0x80U) << 24) | ((code & 0x7FU) << shift));
  return moved * (exponent_bits == 4 ? 0x1p120F : 0x1p112F);
}

/// The weight of a row and a packed column, without the factor.
QUANT_HD float tile_weight(const TileMatrix& m, uint64_t row, uint64_t column) {
  const uint32_t strip = static_cast<uint32_t>(row / kStripRows), step = static_cast<uint32_t>(column / kStepColumns);
  const uint32_t in_strip = row % kStripRows, in_step = column % kStepColumns;
  const CodePlace at = code_place(m.kind, m.bits, in_strip, in_step);
  const uint64_t step_words = (static_cast<uint64_t>(strip) * m.steps + step) * words_of_step(m.bits);
  const uint32_t word = m.codes[step_words + (at.word / 4 * 32 + at.lane) * 4 + at.word % 4];
  const uint32_t code = (word >> at.shift) & ((1U << m.bits) - 1U);
  const uint64_t place = scale_place(m, strip, group_of_run(m, step, in_step / kRun), in_strip);
  const float scale = load_scale(m.scale_type, m.scales, place);
  if (m.kind == TileKind::table) return table_value(m, code) * scale;
  if (m.kind != TileKind::integer) return small_float(code, m.kind == TileKind::e4m3 ? 4 : 5) * scale;
  const int32_t zero = m.offset + (m.zeros == nullptr ? 0 : m.zeros[place]);
  return static_cast<float>(static_cast<int32_t>(code) - zero) * scale;
}

}  // namespace quant::cuda
