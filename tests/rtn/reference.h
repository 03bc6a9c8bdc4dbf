// Round to nearest written as the definitions say, one weight at a time, without the library's kernels.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "quant/dtype.h"
#include "quant/quantized_tensor.h"
#include "quant/tensor.h"

namespace quant::test {

/// A matrix in its stored type, and the values that the type holds.
struct Weights {
  DType type = DType::F32;
  std::uint64_t rows = 0, cols = 0;
  std::vector<float> values;
  std::vector<std::uint16_t> halves;

  TensorView view() const {
    if (type == DType::F32) return f32_view(values, rows, cols);
    return {type, {rows, cols}, std::as_bytes(std::span(halves))};
  }
  float at(std::uint64_t r, std::uint64_t c) const { return values[r * cols + c]; }
};

inline Weights stored(std::vector<float> values, std::uint64_t rows, std::uint64_t cols, DType type) {
  Weights weights{type, rows, cols, std::move(values), {}};
  if (type == DType::F32) return weights;
  for (float& value : weights.values) {
    weights.halves.push_back(type == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value));
    value = round_to_dtype(type, value);
  }
  return weights;
}

/// Gaussian rows; row 1 positive, row 2 negative, row 3 zero, row 4 constant, one outlier in row 0.
inline Weights sample_weights(std::uint64_t rows, std::uint64_t cols, DType type, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 0.05F);
  std::vector<float> values(rows * cols);
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      const float x = normal(random);
      values[r * cols + c] = r == 1   ? std::fabs(x) + 0.01F
                             : r == 2 ? -std::fabs(x) - 0.01F
                             : r == 3 ? 0.0F
                             : r == 4 ? 0.3F
                                      : x;
    }
  }
  if (!values.empty()) values[cols / 2] = 1.75F;
  return stored(std::move(values), rows, cols, type);
}

inline QuantArgs make_args(NumberType type, int bits, bool symmetric, Strategy strategy, std::int64_t group = 0) {
  QuantArgs args;
  args.type = type;
  args.num_bits = bits;
  args.symmetric = symmetric;
  args.strategy = strategy;
  if (group > 0) args.group_size = group;
  if (strategy == Strategy::block) args.block_structure = {3, 20};
  return args;
}
inline QuantArgs nvfp4() {
  QuantArgs args = make_args(NumberType::floating, 4, true, Strategy::tensor_group, 16);
  args.scale_dtype = DType::F8_E4M3;
  return args;
}
inline QuantArgs mx(int bits) {
  QuantArgs args = make_args(NumberType::floating, bits, true, Strategy::group, 32);
  args.scale_dtype = DType::U8;
  return args;
}
inline QuantArgs with(QuantArgs args, const std::string& kwarg, KwValue value) {
  args.observer_kwargs[kwarg] = std::move(value);
  return args;
}
inline QuantArgs observed(QuantArgs args, const std::string& observer) {
  args.observer = observer;
  return args;
}

/// Every kind of scheme that the algorithm serves.
inline std::vector<QuantArgs> all_schemes() {
  std::vector<QuantArgs> list;
  const auto integer = NumberType::integer, floating = NumberType::floating;
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    const std::int64_t group = strategy == Strategy::group ? 24 : 0;
    for (int bits = 1; bits <= 8; ++bits) {
      list.push_back(make_args(integer, bits, true, strategy, group));
      list.push_back(make_args(integer, bits, false, strategy, group));
      list.push_back(with(make_args(integer, bits, true, strategy, group), "symmetric_range", std::string("full")));
      if (bits > 1)
        list.push_back(
            with(make_args(integer, bits, true, strategy, group), "symmetric_range", std::string("restricted")));
    }
    list.push_back(make_args(floating, 8, true, strategy, group));
    list.push_back(with(make_args(floating, 8, true, strategy, group), "float8_format", std::string("e5m2")));
    list.push_back(make_args(floating, 4, true, strategy, group));
  }
  list.push_back(nvfp4());
  list.push_back(mx(4));
  list.push_back(mx(8));
  return list;
}

inline float finite_round(DType type, float value) {
  const float rounded = round_to_dtype(type, value);
  if (std::isfinite(rounded)) return rounded;
  return type == DType::F16 ? 65504.0F : std::bit_cast<float>(0x7F7F0000U);
}

inline float reference_mx_scale(float absmax, const QuantArgs& args) {
  if (absmax == 0) return 0x1p-127F;
  int exponent = 0;
  const float significand = 2 * std::frexp(absmax, &exponent);  // in [1, 2), of 2^(exponent - 1)
  const int rounded = exponent - 1 + (significand >= 1.75F ? 1 : 0);
  return std::ldexp(1.0F, std::max(rounded - (args.num_bits == 4 ? 2 : 8), -127));
}

inline void reference_scale(const QuantArgs& args, DType scale_dtype, float low, float high, float global, float& scale,
                            int& zero) {
  low = std::min(low, 0.0F);
  high = std::max(high, 0.0F);
  const float absmax = std::max(-low, high);
  zero = 0;
  if (is_mx(args)) {
    scale = reference_mx_scale(absmax, args);
    return;
  }
  const int bits = args.num_bits;
  if (args.type == NumberType::floating)
    scale = absmax / float_max(args);
  else if (!args.symmetric)
    scale = (high - low) / static_cast<float>((1 << bits) - 1);
  else if (symmetric_range(args) == SymmetricRange::standard)
    scale = absmax / (static_cast<float>((1 << bits) - 1) / 2);
  else if (symmetric_range(args) == SymmetricRange::restricted)
    scale = absmax / static_cast<float>((1 << (bits - 1)) - 1);
  else
    scale = (-low >= high ? low : high) / static_cast<float>(-(1 << (bits - 1)));
  if (is_nvfp4(args)) scale *= global;
  scale = std::copysign(finite_round(scale_dtype, std::fabs(scale)), scale);
  if (scale == 0) scale = dtype_epsilon(scale_dtype);
  if (args.symmetric || low == high) return;
  const float lowest = static_cast<float>(-(1 << (bits - 1)));
  zero = static_cast<int>(std::nearbyint(std::clamp(lowest - low / scale, lowest, -lowest - 1)));
}

inline std::int8_t reference_code(const QuantArgs& args, float w, float scale, int zero) {
  const float t = w / scale;
  if (args.type == NumberType::floating) {
    const float x = t == 0 ? 0.0F : t;
    const DType type = element_dtype(args);
    return static_cast<std::int8_t>(type == DType::F4        ? f32_to_e2m1(x)
                                    : type == DType::F8_E4M3 ? f32_to_e4m3(x)
                                                             : f32_to_e5m2(x));
  }
  const float low = static_cast<float>(code_min(args)), high = static_cast<float>(code_max(args));
  return static_cast<std::int8_t>(std::nearbyint(std::clamp(t + static_cast<float>(zero), low, high)));
}

/// The min-max result.
inline QuantizedTensor reference_quantize(const Weights& weights, const QuantArgs& args, DType scale_dtype) {
  QuantizedTensor out;
  out.resize(args, weights.rows, weights.cols);
  out.scale_dtype = scale_dtype;
  float absmax = 1.17549435e-38F;
  for (const float w : weights.values) absmax = std::max(absmax, std::fabs(w));
  if (is_nvfp4(args)) {
    const float global = (1.0F / absmax) * 2688.0F;
    out.global_scale = std::isfinite(global) ? global : 1.0F;
  }
  for (std::uint64_t i = 0; i < out.grid.rows; ++i) {
    for (std::uint64_t g = 0; g < out.grid.cols; ++g) {
      const std::uint64_t r0 = i * out.grid.row_extent, r1 = std::min(weights.rows, r0 + out.grid.row_extent);
      const std::uint64_t c0 = g * out.grid.col_extent, c1 = std::min(weights.cols, c0 + out.grid.col_extent);
      float low = weights.at(r0, c0), high = low, scale = 0;
      int zero = 0;
      for (std::uint64_t r = r0; r < r1; ++r) {
        for (std::uint64_t c = c0; c < c1; ++c) {
          low = std::min(low, weights.at(r, c));
          high = std::max(high, weights.at(r, c));
        }
      }
      reference_scale(args, scale_dtype, low, high, out.global_scale, scale, zero);
      out.scales[i * out.grid.cols + g] = scale;
      if (!args.symmetric) out.zero_points[i * out.grid.cols + g] = static_cast<std::int8_t>(zero);
      const float effective = is_nvfp4(args) ? scale / out.global_scale : scale;
      for (std::uint64_t r = r0; r < r1; ++r) {
        for (std::uint64_t c = c0; c < c1; ++c)
          out.codes[r * weights.cols + c] = reference_code(args, weights.at(r, c), effective, zero);
      }
    }
  }
  return out;
}

inline bool same_result(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.codes == b.codes && a.codebook == b.codebook && a.scales == b.scales && a.zero_points == b.zero_points &&
         a.global_scale == b.global_scale && a.scale_dtype == b.scale_dtype;
}

/// Sum over all weights of importance |w - v|^norm, in float64.
inline double total_error(const Weights& weights, const QuantizedTensor& q, double norm,
                          const std::vector<float>& importance = {}) {
  std::vector<float> row(weights.cols);
  double total = 0;
  for (std::uint64_t r = 0; r < weights.rows; ++r) {
    dequantize_row(q, r, row);
    for (std::uint64_t c = 0; c < weights.cols; ++c) {
      const double error = std::fabs(static_cast<double>(weights.at(r, c)) - row[c]);
      total += (importance.empty() ? 1.0 : importance[c]) * std::pow(error, norm);
    }
  }
  return total;
}

inline double sqnr_db(const Weights& weights, const QuantizedTensor& q) {
  double signal = 0;
  for (const float w : weights.values) signal += static_cast<double>(w) * w;
  return 10 * std::log10(signal / total_error(weights, q, 2));
}

}  // namespace quant::test
