// The table of products with packed weights. Plain structs only: compiled with the flags of every instruction set.
//
// A packed matrix is cut into strips of 16 rows. Columns come in chunks of 32; a chunk of b-bit codes is b planes of 16
// 32-bit words, so that word i of the planes 0..b-1 together holds the 32 codes of row i: field f has bits
// f b .. f b + b - 1 of that string. With 2, 4 and 8 bits the fields are in an order that lets byte masks take four
// neighbouring columns at once (field_of_column). Scales and zero points lie as [groups][16 rows] beside them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace quant::cpu {

constexpr size_t kStripRows = 16;
constexpr size_t kChunk = 32;  // columns

/// What a code stands for.
enum class CodeKind : uint8_t {
  lookup,   // table[code]
  integer,  // 5, 6 and 8 bits: code - 2^(bits - 1)
  e4m3,     // 8 bits, not NaN
  e5m2      // 8 bits, finite
};
enum class ScaleType : uint8_t { f32, bf16, f16 };

/// What the strips of one matrix have in common. A weight is (value(code) - zero) * scale.
struct PackedShape {
  CodeKind kind;
  uint8_t bits;  // 2, 3, 4, 5, 6 or 8
  ScaleType scale_type;
  bool real_zeros;          // zero points are float, else int8
  bool half_groups;         // a scale per 16 columns
  size_t chunks;            // of a row
  size_t group_chunks;      // per scale, >= 1; 1 with half_groups
  size_t groups;            // scales of a row
  float table[16];          // of `lookup` up to 4 bits, repeated if there are fewer codes
  const float* wide_table;  // of `lookup` with more bits: [2^bits], 64-byte aligned
};

/// One strip, or the first of several that follow each other in memory.
struct PackedStrip {
  const uint32_t* codes;  // [chunks][bits][16], 64-byte aligned
  const void* scales;     // [groups][16]
  const void* zeros;      // [groups][16], or null for 0
};

/// Matrices whose rows have tables of their own are packed by rows: a chunk is 512 columns of one row, and word i of
/// its planes holds the codes of columns 16 f + i, f = 0 .. 31 (in field f, in order). A strip of 16 rows is [16 /
/// kRowsTogether][chunks][kRowsTogether][bits][16].
constexpr size_t kRowsTogether = 4;
constexpr size_t kRowChunk = 512;

struct PackedRows {
  const uint32_t* codes;  // of a strip
  const float* tables;    // [16 rows][tables_per_row][16, or 2^bits if that is more]
  size_t bits;            // 2, 3, 4, 5, 6 or 8
  size_t chunks;          // of a row
  size_t tables_per_row;
  size_t table_fields;  // runs of 16 columns per table: 4, 8, or a multiple of 32
  // Of 8-bit codes, in the place of `tables`: the low bytes, then the high bytes of BF16 or F16 values, [16
  // rows][tables_per_row][2][256], 64-byte aligned; null: not used.
  const uint8_t* half_tables;
  bool bf16;  // what they hold
};

/// Inputs in 8 bits: x = code * scale. A segment is the columns whose sum is taken in integers: segment_chunks chunks,
/// which share one scale of x and one of the weights. The tokens of a block lie side by side.
struct Int8Inputs {
  const uint32_t* codes;  // [8 chunks][tokens]: codes of 4 columns
  const float* scales;    // [segments][tokens]
  const int32_t* sums;    // [segments][tokens]: of the codes
  size_t segment_chunks;
};

/// Blocks of tokens that `few` and `int8` take besides panel_tokens.
constexpr size_t kFewTokens = 8;

/// Functions of one instruction set. Sums of `few` and of panels go over the columns in order, a fused multiply-add
/// each, so that a token's result does not depend on which of them computed it. y is [tokens][16 * strips] throughout.
struct PackedTable {
  const char* isa;
  size_t panel_tokens;  // of panel_f32, panel_bf16 and int8
  bool half_tables;     // one_rows and unpack_rows take them

  /// One token and one strip: y = W x. x [32 * chunks]; sums [groups] of x, needed with zero points.
  void (*one)(const PackedShape& shape, const PackedStrip& strip, const float* x, const float* sums, float* y);
  /// Two strips and 2, 4 or 8 tokens: y = W x, with x [32 * chunks][tokens].
  void (*few)(const PackedShape& shape, const PackedStrip& strips, const float* x, size_t tokens, float* y);
  /// Chunks [first, first + count) of two strips as float32 [32 * count][32 rows].
  void (*unpack)(const PackedShape& shape, const PackedStrip& strips, size_t first, size_t count, float* panel);
  /// y += panel x for panel_tokens tokens: panel [cols][32], x [cols][panel_tokens].
  void (*panel_f32)(const float* panel, size_t cols, const float* x, float* y);
  /// Pairs of columns of a panel [cols][32] rounded to BF16: out [cols / 2][32].
  void (*round_panel)(const float* panel, size_t cols, uint32_t* out);
  /// y += panel x with operands in BF16: x [cols / 2][panel_tokens]; a pair's first column is in the low half.
  void (*panel_bf16)(const uint32_t* panel, size_t cols, const uint32_t* x, float* y);
  /// Two strips of integers of 2, 4 or 8 bits and 1, 2, 4, 8 or panel_tokens tokens: y = W x. Whole-number zero points.
  void (*int8)(const PackedShape& shape, const PackedStrip& strips, const Int8Inputs& x, size_t tokens, float* y);
  /// Single columns of two strips of such integers as float32 [count][32 rows]: what a panel of them is.
  void (*columns)(const PackedShape& shape, const PackedStrip& strips, const uint32_t* columns, size_t count,
                  float* panel);
  /// One token and one strip packed by rows: y = W x. x [512 * chunks].
  void (*one_rows)(const PackedRows& rows, const float* x, float* y);
  /// Runs of 16 columns [first, first + count) of two strips, as `unpack` gives them.
  void (*unpack_rows)(const PackedRows& low, const PackedRows& high, size_t first, size_t count, float* panel);
  /// Reads memory as fast as it can, a whole number of KiB aligned to 64 bytes; the result depends on every word. The
  /// limit that benchmarks name.
  uint32_t (*read)(const void* memory, size_t bytes);
};

extern const PackedTable kPackedScalar;
#if defined(__x86_64__)
extern const PackedTable kPackedAvx2;
extern const PackedTable kPackedAvx512;
extern const PackedTable kPackedAvx512Vnni;  // and BF16, VBMI
#endif

}  // namespace quant::cpu
