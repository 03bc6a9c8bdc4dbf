// Random matrices and float64 references.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "quant/dtype.h"

namespace quant::test {

constexpr int kThreadCounts[] = {1, 2, 3, 5};
constexpr double kFloatRounding = 0x1p-24;
// BF16 has 8 significant bits: rounding both operands changes a product by at most (1 + 2^-8)^2 - 1 of it.
constexpr double kBf16Products = 2.0 * 0x1p-8 + 0x1p-16;

/// Normal values, times a column scale between 1/4 and 4 so that columns differ.
inline std::vector<float> random_matrix(std::uint64_t rows, std::uint64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * cols);
  for (std::uint64_t i = 0; i < values.size(); ++i) {
    values[i] = normal(generator) * std::exp2(static_cast<float>(i % cols % 5) - 2.0F);
  }
  return values;
}

inline std::vector<float> rounded_to_bf16(std::vector<float> values) {
  for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  return values;
}

/// A sum of products in float64, and the sum of their magnitudes, which bounds rounding errors.
struct Sum {
  double value = 0.0;
  double magnitude = 0.0;
  void add(double a, double b) {
    value += a * b;
    magnitude += std::abs(a * b);
  }
};

/// The largest of |got - value| / magnitude, in float32 roundings.
class WorstError {
 public:
  void add(float got, const Sum& sum) {
    const double error = std::abs(static_cast<double>(got) - sum.value);
    if (error == 0.0) return;
    // Not std::max, which drops a NaN.
    const double roundings = error / (sum.magnitude * kFloatRounding);
    if (!(roundings <= worst_)) worst_ = roundings;
  }
  double roundings() const { return worst_; }

 private:
  double worst_ = 0.0;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace quant::test
