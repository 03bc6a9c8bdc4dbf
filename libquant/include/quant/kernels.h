// Hot loops, written once and compiled for several instruction sets; the table is chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace quant {

/// Sums over one row of weights, in float64 (see ErrorSums).
struct RowSums {
  double signal, noise, dot, recon;
  float max_abs_error;
  std::uint32_t clipped, zeros;
};

/// One row of integer coding. Pointers are to the row's first element; `groups` = ceil(cols / group).
struct IntRow {
  const float* weights;       // [cols]
  std::size_t cols;
  std::size_t group;          // columns per scale
  const float* scales;        // [groups], nonzero
  const float* zero_points;   // [groups] whole numbers, or null for 0
  float code_min, code_max;
  std::int8_t* codes;         // [cols] out
  RowSums* sums;              // out, or null
  double* group_signal;       // [groups], added to, or null
  double* group_noise;        // [groups], added to, or null
};

/// Functions of one instruction set. All tables give the same bits for codes and ranges, and the same sums.
struct KernelTable {
  const char* isa;  // "scalar", "avx2", "avx512"
  void (*f16_to_f32)(const void* in, float* out, std::size_t n);   // `in` may be unaligned
  void (*bf16_to_f32)(const void* in, float* out, std::size_t n);
  // Smallest and largest value of each group of `group` columns (the last may be short). A NaN in a group makes its
  // minimum NaN.
  void (*group_range)(const float* weights, std::size_t cols, std::size_t group, float* minima, float* maxima);
  // code = round_half_even(clamp(w / scale + zero_point, code_min, code_max))
  void (*quantize_int)(const IntRow& row);
};

/// The table in use: the best that the processor runs, or the one that the environment variable QUANT_ISA names
/// (scalar, avx2, avx512; Error{usage} if the processor lacks it or the name is unknown).
const KernelTable& kernels();
/// Every table that this processor can run, scalar first.
const std::vector<const KernelTable*>& available_kernels();

}  // namespace quant
