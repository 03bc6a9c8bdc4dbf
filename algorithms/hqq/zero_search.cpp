#include "hqq/zero_search.h"

#include <algorithm>
#include <cmath>

#include "quant/dtype.h"
#include "quant/kernels.h"

namespace quant::hqq {
namespace {

constexpr std::size_t kIntervals = 4096;
constexpr float kSmallest = 1.0F / 32;  // below, the power bends too much for straight lines
constexpr float kLeastRange = 1e-30F;   // reciprocals of scales of smaller or larger ranges could overflow
constexpr float kMostRange = 1e30F;
constexpr float kMagicRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number, ties to even

float nearest_code(float value, float low, float high) {
  return (std::min(std::max(value, low), high) + kMagicRound) - kMagicRound;
}

}  // namespace

InversePower::InversePower(double norm) : exponent_(static_cast<float>(norm - 1)), values_(kIntervals + 2) {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const double x = std::max<double>(static_cast<double>(i), 1) / kIntervals;
    values_[i] = static_cast<float>(std::pow(x, norm - 1));
  }
}

float InversePower::operator()(float x) const {
  if (!(x >= kSmallest && x <= 1)) return std::pow(x, exponent_);
  const float place = x * static_cast<float>(kIntervals);
  const auto below = static_cast<std::size_t>(static_cast<int>(place));
  return values_[below] + (values_[below + 1] - values_[below]) * (place - static_cast<float>(below));
}

Settings::Settings(const HqqOptions& given)
    : options(given), power(make_power_table(given.lp_norm)), inverse_power(given.lp_norm) {}

// A candidate as it is stored.
void ZeroSearch::add(float scale, double zero) {
  float stored = 0;
  if (whole_) {
    stored = std::clamp(static_cast<float>(std::nearbyint(zero)), rules_.code_min, rules_.code_max);
  } else {
    stored = round_to_dtype(zero_dtype_, static_cast<float>(zero));
    if (!std::isfinite(stored)) return;
  }
  scales_.push_back(scale);
  zeros_.push_back(stored);
}

// Round to nearest's own, over a range with 0 in it.
void ZeroSearch::add_plain(float smallest, float largest) {
  float scale = 0, zero = 0;
  scales_of_ranges(rules_, {&smallest, 1}, {&largest, 1}, {&scale, 1}, {&zero, 1});
  add(scale, static_cast<double>(zero));
}

double ZeroSearch::next_zero(std::span<const float> importance, double zero, double beta, double unit) const {
  const double norm = settings_->options.lp_norm;
  // Errors up to this one shrink to 0: |e|^(2 - p) <= 1 / beta.
  const auto keeps = static_cast<float>(std::pow(beta, -1 / (2 - norm)));
  const auto z = static_cast<float>(zero), scale = static_cast<float>(unit), inverse = static_cast<float>(1 / beta);
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const float code = nearest_code(steps_[i] + z, rules_.code_min, rules_.code_max);
    const float error = (steps_[i] - (code - z)) * scale;
    const float size = std::fabs(error);
    float kept = 0;
    if (size > keeps) kept = std::copysign(size - settings_->inverse_power(size) * inverse, error) / scale;
    const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
    sum += weight * static_cast<double>(code - steps_[i] + kept);
    count += weight;
  }
  return count > 0 ? sum / count : zero;
}

void ZeroSearch::iterate(std::span<const float> values, std::span<const float> importance, float smallest,
                         float scale) {
  steps_.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) steps_[i] = values[i] / scale;
  const double unit = settings_->options.unit == HqqUnit::steps ? 1.0 : static_cast<double>(scale);
  // Codes begin at code_min rather than 0.
  double zero = static_cast<double>(rules_.code_min) - static_cast<double>(smallest) / static_cast<double>(scale);
  double beta = settings_->options.beta;
  add(scale, zero);
  for (std::int64_t i = 0; i < settings_->options.iters; ++i) {
    zero = next_zero(importance, zero, beta, unit);
    add(scale, zero);
    beta *= settings_->options.kappa;
  }
}

GroupChoice ZeroSearch::choose(std::span<const float> values, std::span<const float> importance) {
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  scales_.clear();
  zeros_.clear();
  whole_ = zero_dtype_ == DType::I8 || (keep_zeros_ && std::find(values.begin(), values.end(), 0.0F) != values.end());
  add_plain(*smallest, *largest);
  const float range = *largest - *smallest, absmax = std::max(std::fabs(*smallest), std::fabs(*largest));
  float scale = range / (rules_.code_max - rules_.code_min);
  kernels().round_values(rules_.round, &scale, 1);
  if (!(range > kLeastRange && absmax < kMostRange && scale > 0)) return {scales_[0], zeros_[0]};
  iterate(values, importance, *smallest, scale);
  errors_.assign(scales_.size(), 0.0);
  // The kernel fills up the last vector with zeros, which have no error only if they do not count or their code is
  // exact.
  if (importance.empty() && ones_.size() < values.size()) ones_.resize(values.size(), 1.0F);
  kernels().search({values.data(), importance.empty() ? ones_.data() : importance.data(), values.size(), rules_.element,
                    rules_.code_min, rules_.code_max, scales_.data(), zeros_.data(), scales_.size(), scales_[0],
                    &settings_->power, errors_.data()});
  const auto best = static_cast<std::size_t>(std::min_element(errors_.begin(), errors_.end()) - errors_.begin());
  return {scales_[best], zeros_[best]};
}

}  // namespace quant::hqq
