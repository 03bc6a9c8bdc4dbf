#include "observer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant::rtn {
namespace {

struct NamedObserver {
  std::string_view name;
  Observer::Kind kind;
  double maxshrink, expand, norm;
  std::size_t grid;
};

// The grid defaults are those of llm-compressor's observers of these names.
constexpr std::array kObservers{
    NamedObserver{"memoryless_minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"static_minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"percentile", Observer::Kind::percentile, 0, 1, 2, 1},
    NamedObserver{"memoryless_mse", Observer::Kind::grid, 0.20, 1, 2.4, 100},
    NamedObserver{"mse", Observer::Kind::grid, 0.20, 1, 2.4, 100},
    NamedObserver{"nvfp4_expanded_mse", Observer::Kind::grid, 1 - 0.8 / 1.8, 1.8, 2.4, 200},
    NamedObserver{"imatrix_mse", Observer::Kind::grid, 0.95, 1, 3.0, 20},
    NamedObserver{"mse_search", Observer::Kind::search, 0.20, 1, 2.0, 100},
};

const NamedObserver& find_observer(const std::string& name) {
  std::string names;
  for (const auto& entry : kObservers) {
    if (entry.name == name) return entry;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error(ErrorCode::usage, "observer '" + name + "' is unknown", "use one of: " + names);
}

// A number of observer_kwargs within [low, high], or `value` if it is absent.
double number_kwarg(const QuantArgs& args, const std::string& name, double value, double low, double high) {
  const auto found = args.observer_kwargs.find(name);
  if (found == args.observer_kwargs.end()) return value;
  double number = std::numeric_limits<double>::quiet_NaN();
  if (const auto* real = std::get_if<double>(&found->second)) number = *real;
  if (const auto* whole = std::get_if<std::int64_t>(&found->second)) number = static_cast<double>(*whole);
  if (number >= low && number <= high) return number;
  throw Error(ErrorCode::usage, "observer_kwargs." + name + ": must be a number from " + std::to_string(low) + " to " +
                                    std::to_string(high));
}

}  // namespace

Observer make_observer(const QuantArgs& args) {
  const NamedObserver& named = find_observer(args.observer.value_or("memoryless_minmax"));
  Observer observer;
  observer.kind = named.kind;
  observer.percentile = number_kwarg(args, "percentile", 0.9999, 0.5, 1.0);
  observer.maxshrink = number_kwarg(args, "maxshrink", named.maxshrink, 0.0, 1.0);
  observer.expand = number_kwarg(args, "expand", named.expand, 0.1, 10.0);
  observer.norm = number_kwarg(args, "norm", named.norm, 0.1, 8.0);
  observer.grid = static_cast<std::size_t>(number_kwarg(args, "grid", static_cast<double>(named.grid), 1, 100000));
  observer.power = make_power_table(observer.norm);
  return observer;
}

// Scales of the shrunk ranges, without consecutive repetitions (rounding a scale to its type makes many).
void ScaleSearch::build_candidates(const Rules& rules) {
  const std::size_t count = shrinks_.size();
  minima_.resize(count);
  maxima_.resize(count);
  scales_.resize(count);
  zero_points_.resize(rules.symmetric ? 0 : count);
  for (std::size_t i = 0; i < count; ++i) {
    minima_[i] = smallest_ * shrinks_[i].low;
    maxima_[i] = largest_ * shrinks_[i].high;
  }
  scales_of_ranges(rules, minima_, maxima_, scales_, zero_points_);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const float zero =
        rules.symmetric ? 0.0F : std::clamp(zero_points_[i] + shrinks_[i].shift, rules.code_min, rules.code_max);
    if (kept > 0 && scales_[kept - 1] == scales_[i] && (rules.symmetric || zero_points_[kept - 1] == zero)) continue;
    scales_[kept] = scales_[i];
    shrinks_[kept] = shrinks_[i];
    if (!rules.symmetric) zero_points_[kept] = zero;
    ++kept;
  }
  shrinks_.resize(kept);
  scales_.resize(kept);
  zero_points_.resize(rules.symmetric ? 0 : kept);
  effective_.resize(kept);
  effective_scales(rules, scales_, effective_);
}

// Evaluates shrinks_; keeps the best so far. The first of equal candidates wins.
void ScaleSearch::try_all(const Rules& rules, CandidateErrors& errors) {
  build_candidates(rules);
  if (best_.scale == 0) unit_ = effective_.front();
  errors_.assign(scales_.size(), 0.0);
  errors.evaluate(effective_, zero_points_, unit_, errors_);
  for (std::size_t i = 0; i < scales_.size(); ++i) {
    if (best_.scale != 0 && !(errors_[i] < best_error_)) continue;
    best_error_ = errors_[i];
    best_shrink_ = shrinks_[i];
    best_ = {scales_[i], rules.symmetric ? 0.0F : zero_points_[i]};
  }
}

// Joint shrinks in ever smaller steps around the best.
void ScaleSearch::refine_scale(const Rules& rules, CandidateErrors& errors) {
  for (const float step : {0.0025F, 0.0005F}) {
    const Shrink around = best_shrink_;
    shrinks_.clear();
    for (int i = -6; i <= 6; ++i) {
      if (i != 0) shrinks_.push_back({around.low + i * step, around.high + i * step, around.shift});
    }
    try_all(rules, errors);
  }
}

// Both ends of an asymmetric range on their own, then the neighbours of the zero point.
void ScaleSearch::refine_ends(const Rules& rules, CandidateErrors& errors) {
  for (const float step : {0.08F, 0.04F, 0.04F, 0.02F, 0.02F, 0.01F, 0.005F}) {
    const Shrink around = best_shrink_;
    shrinks_.clear();
    for (int low = -1; low <= 1; ++low) {
      for (int high = -1; high <= 1; ++high) {
        if (low != 0 || high != 0)
          shrinks_.push_back({around.low + low * step, around.high + high * step, around.shift});
      }
    }
    try_all(rules, errors);
  }
  const Shrink around = best_shrink_;
  shrinks_.clear();
  for (const float shift : {-1.0F, 1.0F}) {
    for (int i = -4; i <= 4; ++i) {
      shrinks_.push_back({around.low + i * 0.01F, around.high + i * 0.01F, around.shift + shift});
    }
  }
  try_all(rules, errors);
}

ScaleChoice ScaleSearch::choose(const Rules& rules, const Observer& observer, float smallest, float largest,
                                CandidateErrors& errors) {
  smallest_ = smallest;
  largest_ = largest;
  best_ = {};
  shrinks_.assign(1, {1, 1, 0});
  const float absmax = std::max(std::fabs(smallest), std::fabs(largest));
  // Beyond these bounds reciprocals of scales could overflow: the plain range is kept.
  const bool searches = observer.kind == Observer::Kind::grid || observer.kind == Observer::Kind::search;
  if (!searches || !(absmax > 1e-30F && absmax < 1e30F)) {
    build_candidates(rules);
    return {scales_[0], rules.symmetric ? 0.0F : zero_points_[0]};
  }
  const auto steps = static_cast<std::size_t>(observer.maxshrink * static_cast<double>(observer.grid));
  for (std::size_t i = 0; i < steps; ++i) {
    const double p = observer.expand * (1 - static_cast<double>(i) / static_cast<double>(observer.grid));
    shrinks_.push_back({static_cast<float>(p), static_cast<float>(p), 0});
  }
  if (observer.kind == Observer::Kind::search) {
    const float step = rules.mx ? 0.25F : 0.02F;
    for (float p = rules.mx ? 0.25F : 0.40F; p<2.01F; p += p> 1.1F ? 2 * step : step) shrinks_.push_back({p, p, 0});
  }
  try_all(rules, errors);
  if (observer.kind == Observer::Kind::search && !rules.mx) {
    if (!rules.symmetric) refine_ends(rules, errors);
    refine_scale(rules, errors);
  }
  return best_;
}

}  // namespace quant::rtn
