#include "codebook/block_coder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quant::codebook {
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

Fit& Fit::operator+=(const Fit& more) {
  error += more.error;
  cross += more.cross;
  square += more.square;
  return *this;
}

Fit Fitter::fit(const Table& table, std::span<const float> values, std::span<const float> importance, float scale) {
  places_.resize(values.size());
  table.find_places(values, inverse_of(scale), places_.data());
  Fit fit;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
    const auto value = static_cast<double>(values[i]);
    const auto entry = static_cast<double>(table.value(places_[i]));
    const double difference = value - static_cast<double>(table.value(places_[i]) * scale);
    fit.error += weight * difference * difference;
    fit.cross += weight * value * entry;
    fit.square += weight * entry * entry;
  }
  return fit;
}

std::span<const float> candidate_parts() {
  static const std::array<float, 24> parts = [] {
    std::array<float, 24> list{};
    for (std::size_t i = 0; i < list.size(); ++i) list[i] = 0.6F + 0.025F * static_cast<float>(i);
    return list;
  }();
  return parts;
}

}  // namespace quant::codebook
