#include "codebook/block_coder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "shared/checks.h"

namespace quant::codebook {
namespace {

// Candidates for the scale, as parts of the largest magnitude.
constexpr int kCandidates = 24;
constexpr float kSmallestPart = 0.6F;
constexpr float kStep = 0.025F;

}  // namespace

// Bounds are means in float32, as in bitsandbytes (_get_4bit_quantize_bounds). Of the two zeros of FP4, code 0 comes
// first: a value of 0 is code 0, one just above is code 8, and both mean 0.
Table::Table(Codebook codebook) {
  const auto values = fixed_codebook(codebook);
  std::iota(codes_.begin(), codes_.end(), std::int8_t{0});
  std::stable_sort(codes_.begin(), codes_.end(), [&](std::int8_t a, std::int8_t b) {
    return values[static_cast<std::size_t>(a)] < values[static_cast<std::size_t>(b)];
  });
  for (std::size_t i = 0; i < codes_.size(); ++i) ascending_[i] = values[static_cast<std::size_t>(codes_[i])];
  for (std::size_t i = 0; i < bounds_.size(); ++i) bounds_[i] = (ascending_[i] + ascending_[i + 1]) / 2.0F;
}

void Table::find_places(std::span<const float> values, float inverse, std::uint8_t* places) const {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float value = values[i] * inverse;
    int place = 0;
    for (const float bound : bounds_) place += value > bound ? 1 : 0;
    places[i] = static_cast<std::uint8_t>(place);
  }
}

void Table::encode(std::span<const float> values, float inverse, std::int8_t* codes) const {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float value = values[i] * inverse;
    int place = 0;
    for (const float bound : bounds_) place += value > bound ? 1 : 0;
    codes[i] = codes_[static_cast<std::size_t>(place)];
  }
}

float inverse_of(float scale) { return 1.0F / scale; }

float largest_magnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

// The error with this scale, and the scale that would be best for the codes that it gives.
double ScaleFinder::error_of(const Table& table, std::span<const float> values, std::span<const float> importance,
                             float scale, double& best_scale) {
  places_.resize(values.size());
  table.find_places(values, inverse_of(scale), places_.data());
  double error = 0, cross = 0, square = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
    const auto value = static_cast<double>(values[i]);
    const auto entry = static_cast<double>(table.value(places_[i]));
    const double difference = value - static_cast<double>(table.value(places_[i]) * scale);
    error += weight * difference * difference;
    cross += weight * value * entry;
    square += weight * entry * entry;
  }
  best_scale = square > 0 && cross > 0 ? cross / square : static_cast<double>(scale);
  return error;
}

float ScaleFinder::find(const Table& table, std::span<const float> values, std::span<const float> importance,
                        DType type) {
  const float largest = largest_magnitude(values);
  float best = shared::storable_scale(largest, type);
  if (largest < 1e-30F || largest > 1e30F) return best;
  double refit = 0;
  double least = error_of(table, values, importance, best, refit);
  const auto consider = [&](double wanted) {
    const float scale = shared::storable_scale(static_cast<float>(wanted), type);
    const double error = error_of(table, values, importance, scale, refit);
    if (error >= least) return;
    least = error;
    best = scale;
  };
  for (int i = 0; i < kCandidates; ++i) {
    consider(static_cast<double>(largest * (kSmallestPart + kStep * static_cast<float>(i))));
    consider(refit);
  }
  return best;
}

}  // namespace quant::codebook
