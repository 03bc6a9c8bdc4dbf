// Scale and codes of the weights that share one scale.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/scheme.h"
#include "shared/checks.h"

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

/// How well weights are met with a scale: sums over them.
struct Fit {
  double error = 0;   ///< importance * (value - entry * scale)^2
  double cross = 0;   ///< importance * value * entry
  double square = 0;  ///< importance * entry^2
  Fit& operator+=(const Fit& more);
  /// The scale that would be best for the codes that were found, or `scale` where none of them says.
  double best_scale(float scale) const { return square > 0 && cross > 0 ? cross / square : static_cast<double>(scale); }
};

/// Codes values to see how well a scale fits; keeps its memory.
class Fitter {
 public:
  /// `importance`: as long as values, or empty.
  Fit fit(const Table& table, std::span<const float> values, std::span<const float> importance, float scale);

 private:
  std::vector<std::uint8_t> places_;
};

/// Scales as parts of the largest magnitude that are tried first.
std::span<const float> candidate_parts();

/// The scale of `type` with the least error among those parts of `largest` and, after each, the best one for its codes;
/// never worse than the largest magnitude itself. fit_of(scale) -> Fit.
template <class FitOf>
float find_scale(float largest, DType type, const FitOf& fit_of) {
  float best = shared::storable_scale(largest, type);
  if (largest < 1e-30F || largest > 1e30F) return best;
  double least = fit_of(best).error;
  double refit = 0;
  const auto consider = [&](double wanted) {
    const float scale = shared::storable_scale(static_cast<float>(wanted), type);
    const Fit fit = fit_of(scale);
    refit = fit.best_scale(scale);
    if (fit.error >= least) return;
    least = fit.error;
    best = scale;
  };
  for (const float part : candidate_parts()) {
    consider(static_cast<double>(largest * part));
    consider(refit);
  }
  return best;
}

}  // namespace quant::codebook
