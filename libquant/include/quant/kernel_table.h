// The table of hot loops. Plain structs only: this header is compiled with the flags of every instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace quant {

/// Types of weights that the kernels read without a copy.
enum class WeightType : uint8_t { f32, f16, bf16 };

/// What a code means.
enum class Element : uint8_t { integer, e2m1, e4m3, e5m2 };

/// Types that a kernel rounds float32 values to.
enum class RoundTo : uint8_t { f32, f16, bf16, e4m3, e5m2 };

/// Sums over one row of weights w and dequantized values v, in float64 (see ErrorSums).
struct RowSums {
  double signal, noise, dot, recon;
  float max_abs_error;
  uint32_t clipped, zeros;
};

/// One row of coding or of measuring. v = (element(code) - zero_point) * scale in float32.
/// Sums: 16 float32 lanes (column modulo 16 within a group), combined by halves every 128 columns, then float64.
struct EncodeRow {
  const void* weights;  // [cols] of `type`; may be unaligned
  WeightType type;
  Element element;
  size_t cols;
  size_t group;              // columns per scale, > 0; the last group may be short
  const float* scales;       // [ceil(cols / group)], finite and nonzero
  const float* zero_points;  // [ceil(cols / group)] whole numbers within the code range, or null for 0; integers only
  float code_min, code_max;  // ends of the code range; integers only
  int8_t* codes;             // [cols]; `measure` only reads them
  RowSums* sums;             // out
  double* group_signal;      // [ceil(cols / group)], added to, or null
  double* group_noise;       // [ceil(cols / group)], added to, or null
};

/// x^norm for the search kernel: m^norm for the mantissa by a polynomial, 2^(norm e) by a table (see make_power_table).
struct PowerTable {
  float coefficients[6];  // of 1, m, ... m^5 on [1, 2)
  float powers[32];       // of 2^(norm * (index - 15)); index 0 is 0
  bool square;            // norm 2: u * u is used instead
};

/// Errors of one group of weights for several candidate scales.
struct SearchGroup {
  const float* weights;     // [count], finite
  const float* importance;  // [count] >= 0, or null for 1
  size_t count;
  Element element;
  float code_min, code_max;  // integers only
  const float* scales;       // [candidates], finite and nonzero
  const float* zero_points;  // [candidates] or null
  size_t candidates;
  float unit;  // errors are in units of |unit|^norm, which should be near the scales
  const PowerTable* power;
  double* errors;  // [candidates], added to: sum of importance |w - v|^norm / |unit|^norm
};

/// Elementwise functions of the forward pass.
enum class MathFunction : uint8_t { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, tanh, sigmoid };

/// A row that is quantized and turned back: out = (code - zero_point) * scale, with `encode`'s codes.
struct FakeQuantizeRow {
  float* values;  // [cols], in place
  Element element;
  size_t cols;
  size_t group;              // columns per scale, > 0; the last group may be short
  const float* scales;       // [ceil(cols / group)], nonzero
  const float* zero_points;  // [ceil(cols / group)], or null for 0; integers only
  float code_min, code_max;  // integers only
};

/// Functions of the forward pass. `in` and `out` may be the same. NaN gives NaN. Errors are in units of the last place
/// of float32, against the exact function; tests/forward measures them.
struct MathKernels {
  void (*apply)(MathFunction function, const float* in, float* out, size_t n);  // 5 units
  void (*softcap)(float cap, const float* in, float* out, size_t n);            // cap * tanh(in / cap)
  /// x[i] = exp(x[i] - max x), which is not normalized; returns the sum. 0 for n == 0; NaN if a value is NaN or +inf.
  double (*softmax)(float* x, size_t n);
  /// Sum of x and of (x - shift)^2: 16 float32 lanes, combined every 128 elements, then float64.
  double (*sum)(const float* x, size_t n);
  double (*sum_squares)(const float* x, float shift, size_t n);
  void (*fake_quantize)(const FakeQuantizeRow& row);
};

/// Functions of one instruction set. All tables give the same bits.
struct KernelTable {
  const char* isa;                                           // "scalar", "avx2", "avx512"
  void (*f16_to_f32)(const void* in, float* out, size_t n);  // `in` may be unaligned; a NaN is quieted
  void (*bf16_to_f32)(const void* in, float* out, size_t n);
  /// Smallest and largest value of each group. Both are NaN for a group with a NaN or an infinity.
  void (*group_range)(const void* weights, WeightType type, size_t cols, size_t group, float* minima, float* maxima);
  /// Largest magnitude of each group; infinite or NaN for a group with such a value.
  void (*group_absmax)(const void* weights, WeightType type, size_t cols, size_t group, float* absmax);
  /// values[i] = the nearest finite value of that type, ties to even.
  void (*round_values)(RoundTo type, float* values, size_t n);
  /// Integers: code = round_half_even(clamp(w / scale + zero_point, code_min, code_max)), where `/` and `+` round to
  /// float32. Floats: w / scale clamped to the largest value and rounded to nearest even. Measures the result.
  void (*encode)(const EncodeRow& row);
  /// The same sums for given codes.
  void (*measure)(const EncodeRow& row);
  /// Sums over a pair of rows; `clipped` is 0.
  void (*measure_pair)(const float* weights, const float* values, size_t n, RowSums* sums);
  /// Rounds with w * (1 / scale), so a tie may fall to the other side than in `encode`: the error is the same.
  void (*search)(const SearchGroup& group);
  /// out[i] = the low 4 bits of codes[2i] ^ flip in its low half, those of codes[2i + 1] ^ flip in its high half.
  void (*pack_nibbles)(const int8_t* codes, size_t bytes, uint8_t flip, uint8_t* out);
  MathKernels math;
};

}  // namespace quant
