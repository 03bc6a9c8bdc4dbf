#include "scale_search.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/dtype.h"
#include "quant/error.h"

namespace quant::rtn {
namespace {

// Of the range, besides the observer's own grid: a little more than the range down to less than half of it.
constexpr std::array<float, 24> kWideFactors{1.10F, 1.08F, 1.06F, 1.05F, 1.04F, 1.03F, 1.02F, 1.01F,
                                             0.79F, 0.78F, 0.77F, 0.76F, 0.75F, 0.73F, 0.71F, 0.69F,
                                             0.67F, 0.64F, 0.61F, 0.58F, 0.55F, 0.50F, 0.45F, 0.40F};
// Powers of two, for scales that are such.
constexpr std::array<float, 3> kOctaves{2.0F, 0.5F, 0.25F};
// The largest element may stand for 4 instead of 6, or lie between: scales up to 1.5 times larger.
constexpr float kLargestNvfp4Factor = 1.6F;

const std::array<float, 128>& e4m3_values() {
  static const auto table = [] {
    std::array<float, 128> values{};
    for (unsigned i = 0; i < 128; ++i) values[i] = e4m3_to_f32(static_cast<std::uint8_t>(i));
    return values;
  }();
  return table;
}

int e4m3_code(float value) { return f32_to_e4m3(value); }

}  // namespace

void ScaleSearch::add_joint(std::span<const float> factors) {
  for (const float factor : factors) shrinks_.push_back({factor, factor, 0});
}

// Every E4M3 scale within the grid's factors (and those of the wider search), the plain one first. Replaces the
// candidates.
void ScaleSearch::add_codes(const Rules& rules, const Observer& observer, float absmax) {
  const auto [low, high] = std::minmax_element(observer.factors.begin(), observer.factors.end());
  const bool wide = observer.kind == Observer::Kind::search;
  const float plain = absmax / rules.divisor * rules.global_scale;
  const int first = std::max(1, e4m3_code(plain * *low));
  const int last =
      std::min(126, std::max(first, e4m3_code(plain * (wide ? std::max(*high, kLargestNvfp4Factor) : *high))));
  scales_.resize(1);  // the plain one, from scale_candidates
  for (int code = first; code <= last; ++code) {
    const float scale = e4m3_values()[static_cast<std::size_t>(code)];
    if (scale != scales_[0]) scales_.push_back(scale);
  }
  shrinks_.assign(scales_.size(), {1, 1, 0});
}

void ScaleSearch::scale_candidates(const Rules& rules) {
  const std::size_t count = shrinks_.size();
  maxima_.resize(count);
  scales_.resize(count);
  if (rules.symmetric && rules.convention != SymmetricRange::full) {
    const float absmax = std::max(-smallest_, largest_);
    for (std::size_t i = 0; i < count; ++i) maxima_[i] = absmax * shrinks_[i].high;
    return scales_of_absmax(rules, maxima_, scales_);
  }
  minima_.resize(count);
  zero_points_.resize(rules.symmetric ? 0 : count);
  for (std::size_t i = 0; i < count; ++i) {
    minima_[i] = smallest_ * shrinks_[i].low;
    maxima_[i] = largest_ * shrinks_[i].high;
  }
  scales_of_ranges(rules, minima_, maxima_, scales_, zero_points_);
  for (std::size_t i = 0; i < zero_points_.size(); ++i) {
    zero_points_[i] = std::clamp(zero_points_[i] + shrinks_[i].shift, rules.code_min, rules.code_max);
  }
}

// Rounding to a type of few values makes many candidates equal.
void ScaleSearch::drop_repetitions(const Rules& rules) {
  if (!rules.mx || scales_.empty()) return;
  std::size_t kept = 1;
  for (std::size_t i = 1; i < scales_.size(); ++i) {
    if (std::find(scales_.begin(), scales_.begin() + static_cast<std::ptrdiff_t>(kept), scales_[i]) !=
        scales_.begin() + static_cast<std::ptrdiff_t>(kept)) {
      continue;
    }
    scales_[kept] = scales_[i];
    shrinks_[kept++] = shrinks_[i];
  }
  scales_.resize(kept);
  shrinks_.resize(kept);
}

// Evaluates scales_ and zero_points_; keeps the best so far. The first of equal candidates wins.
void ScaleSearch::try_all(const Rules& rules, CandidateErrors& errors) {
  drop_repetitions(rules);
  effective_.resize(scales_.size());
  effective_scales(rules, scales_, effective_);
  const bool first = unit_ == 0;
  if (first) unit_ = effective_.front();
  errors_.assign(scales_.size(), 0.0);
  errors.evaluate(effective_, zero_points_, unit_, errors_);
  for (std::size_t i = 0; i < scales_.size(); ++i) {
    if (!(first && i == 0) && !(errors_[i] < best_error_)) continue;
    best_error_ = errors_[i];
    best_shrink_ = shrinks_[i];
    best_ = {scales_[i], rules.symmetric ? 0.0F : zero_points_[i]};
  }
}

// Joint shrinks in ever smaller steps around the best. The first round reaches for the neighbours on the default grid,
// 0.01 apart, the second half way to those of the first.
void ScaleSearch::refine_scale(const Rules& rules, CandidateErrors& errors) {
  struct Round {
    float step;
    int reach;
  };
  for (const auto& [step, reach] : {Round{0.0025F, 3}, Round{0.0005F, 2}}) {
    const Shrink around = best_shrink_;
    shrinks_.clear();
    for (int i = -reach; i <= reach; ++i) {
      const float change = static_cast<float>(i) * step;
      if (i != 0) shrinks_.push_back({around.low + change, around.high + change, around.shift});
    }
    scale_candidates(rules);
    try_all(rules, errors);
  }
}

// Both ends of an asymmetric range on their own, then the neighbours of the zero point.
void ScaleSearch::refine_ends(const Rules& rules, CandidateErrors& errors) {
  for (const float step : {0.08F, 0.04F, 0.04F, 0.02F, 0.02F, 0.01F, 0.005F}) {
    const Shrink around = best_shrink_;
    shrinks_.clear();
    for (const float low : {-step, 0.0F, step}) {
      for (const float high : {-step, 0.0F, step}) {
        if (low != 0 || high != 0) shrinks_.push_back({around.low + low, around.high + high, around.shift});
      }
    }
    scale_candidates(rules);
    try_all(rules, errors);
  }
  const Shrink around = best_shrink_;
  shrinks_.clear();
  for (const float shift : {-1.0F, 1.0F}) {
    for (const float change : {-0.03F, -0.02F, -0.01F, 0.0F, 0.01F, 0.02F, 0.03F}) {
      shrinks_.push_back({around.low + change, around.high + change, around.shift + shift});
    }
  }
  scale_candidates(rules);
  try_all(rules, errors);
}

ScaleChoice ScaleSearch::choose(const Rules& rules, const Observer& observer, float smallest, float largest,
                                CandidateErrors& errors) {
  smallest_ = smallest;
  largest_ = largest;
  unit_ = 0;
  shrinks_.clear();
  zero_points_.clear();
  const float absmax = std::max(std::fabs(smallest), std::fabs(largest));
  // Beyond these bounds reciprocals of scales could overflow: the plain range is kept.
  const bool searches = observer.searches() && absmax > 1e-30F && absmax < 1e30F;
  const bool wide = searches && observer.kind == Observer::Kind::search;
  add_joint(searches && !rules.two_level ? std::span(observer.factors) : std::span(observer.factors).first(1));
  if (wide && !rules.two_level)
    add_joint(rules.mx ? std::span<const float>(kOctaves) : std::span<const float>(kWideFactors));
  scale_candidates(rules);
  if (!searches) return {scales_[0], rules.symmetric ? 0.0F : zero_points_[0]};
  if (rules.two_level) add_codes(rules, observer, absmax);
  try_all(rules, errors);
  if (wide && !rules.mx && !rules.two_level) {
    if (!rules.symmetric) refine_ends(rules, errors);
    refine_scale(rules, errors);
  }
  return best_;
}

}  // namespace quant::rtn
