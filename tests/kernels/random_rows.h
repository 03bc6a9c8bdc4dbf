// Rows of weights that are hard on kernels, in every type that they read.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "quant/dtype.h"
#include "quant/kernels.h"

namespace quant::test {

enum class Pattern { gaussian, ties, tiny, huge, mixed, zero };

inline std::vector<float> pattern_values(Pattern pattern, std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const float x = normal(random);
    switch (pattern) {
      case Pattern::gaussian:
        values[i] = 0.02F * x;
        break;
      case Pattern::ties:
        values[i] = std::round(8 * x) / 16;
        break;  // many quotients half way between codes
      case Pattern::tiny:
        values[i] = std::ldexp(std::round(64 * x), -24);
        break;  // subnormals of half precision
      case Pattern::huge:
        values[i] = std::fmod(x, 1.0F) * 60000.0F;
        break;
      case Pattern::mixed:
        values[i] = std::ldexp(x, static_cast<int>(random() % 20) - 14);
        break;
      case Pattern::zero:
        values[i] = i % 2 == 0 ? 0.0F : -0.0F;
        break;
    }
  }
  return values;
}

/// A row in memory at an odd address, so that kernels may not count on alignment.
class StoredRow {
 public:
  StoredRow(const std::vector<float>& values, WeightType type) : type_(type) {
    const std::size_t size = type == WeightType::f32 ? 4 : 2;
    bytes_.resize(values.size() * size + 1);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t half = type == WeightType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      std::memcpy(bytes_.data() + 1 + i * size, type == WeightType::f32 ? static_cast<const void*>(&values[i]) : &half,
                  size);
      values_.push_back(type == WeightType::f32   ? values[i]
                        : type == WeightType::f16 ? f16_to_f32(half)
                                                  : bf16_to_f32(half));
    }
  }
  const void* data() const { return bytes_.data() + 1; }
  WeightType type() const { return type_; }
  const std::vector<float>& values() const { return values_; }  ///< as stored

 private:
  WeightType type_;
  std::vector<unsigned char> bytes_;
  std::vector<float> values_;
};

inline bool same_bits(const void* a, const void* b, std::size_t bytes) {
  return bytes == 0 || std::memcmp(a, b, bytes) == 0;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size() * sizeof(T));
}

inline constexpr Pattern kPatterns[] = {Pattern::gaussian, Pattern::ties,  Pattern::tiny,
                                        Pattern::huge,     Pattern::mixed, Pattern::zero};
inline constexpr WeightType kWeightTypes[] = {WeightType::f32, WeightType::f16, WeightType::bf16};

}  // namespace quant::test
