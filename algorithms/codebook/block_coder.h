// Scale and codes of the weights that share one scale.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/scheme.h"

namespace quant::codebook {

/// A fixed codebook in ascending order.
class Table {
 public:
  explicit Table(Codebook codebook);

  /// codes[i]: of the value nearest to values[i] * inverse, as the codebook numbers it.
  void encode(std::span<const float> values, float inverse, std::int8_t* codes) const;
  /// places[i]: of the same value in ascending order.
  void find_places(std::span<const float> values, float inverse, std::uint8_t* places) const;
  float value(std::uint8_t place) const { return ascending_[place]; }

 private:
  std::array<float, 16> ascending_{};
  std::array<float, 15> bounds_{};
  std::array<std::int8_t, 16> codes_{};
};

/// 1 / scale as codes are made with it.
float inverse_of(float scale);

/// The largest magnitude.
float largest_magnitude(std::span<const float> values);

/// Finds scales of least error; keeps its memory.
class ScaleFinder {
 public:
  /// A scale of `type`; `importance` as long as values, or empty.
  float find(const Table& table, std::span<const float> values, std::span<const float> importance, DType type);

 private:
  double error_of(const Table& table, std::span<const float> values, std::span<const float> importance, float scale,
                  double& best_scale);
  std::vector<std::uint8_t> places_;
};

}  // namespace quant::codebook
