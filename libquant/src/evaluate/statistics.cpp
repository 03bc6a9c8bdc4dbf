#include <algorithm>
#include <array>
#include <cmath>

#include "quant/evaluate.h"

namespace quant {
namespace {

constexpr std::size_t kTop = 5;

/// The indices of the largest values, largest first; of equal values the first comes first. Fewer than kTop values:
/// `size` says how many.
struct TopList {
  std::array<std::size_t, kTop> index{};
  std::array<float, kTop> value{};
  std::size_t size = 0;

  void offer(std::size_t i, float v) {
    if (size == kTop && !(v > value[kTop - 1])) return;
    std::size_t place = size < kTop ? size++ : kTop - 1;
    for (; place > 0 && v > value[place - 1]; --place) {
      index[place] = index[place - 1];
      value[place] = value[place - 1];
    }
    index[place] = i;
    value[place] = v;
  }
  bool holds(std::size_t i) const {
    return std::find(index.begin(), index.begin() + static_cast<std::ptrdiff_t>(size), i) !=
           index.begin() + static_cast<std::ptrdiff_t>(size);
  }
};

TopList top_of(std::span<const float> logits) {
  TopList top;
  for (std::size_t i = 0; i < logits.size(); ++i) top.offer(i, logits[i]);
  return top;
}

/// ln sum exp(logits), with the terms exp(logit - largest) left in `terms` if it is not empty.
double log_sum_exp(std::span<const float> logits, double largest, std::span<double> terms) {
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double term = std::exp(static_cast<double>(logits[i]) - largest);
    if (!terms.empty()) terms[i] = term;
    sum += term;
  }
  return largest + std::log(sum);
}

double share_in_common(const TopList& a, const TopList& b) {
  std::size_t common = 0;
  for (std::size_t i = 0; i < a.size; ++i) common += b.holds(a.index[i]) ? 1 : 0;
  return static_cast<double>(common) / static_cast<double>(a.size);
}

}  // namespace

double token_loss(std::span<const float> logits, std::int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  return log_sum_exp(logits, largest, {}) - static_cast<double>(logits[static_cast<std::size_t>(target)]);
}

PredictionPair compare_predictions(std::span<const float> base, std::span<const float> model, std::int32_t target,
                                   std::vector<double>& scratch) {
  scratch.resize(base.size());
  const TopList base_top = top_of(base);
  const TopList model_top = top_of(model);
  const double base_largest = base_top.value[0];
  const double base_log = log_sum_exp(base, base_largest, scratch);
  const double model_log = log_sum_exp(model, model_top.value[0], {});
  double weighted = 0;
  double sum = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    // A token that the base rules out (-infinity) adds nothing, whatever the model says of it.
    if (scratch[i] == 0) continue;
    weighted += scratch[i] * (static_cast<double>(base[i]) - static_cast<double>(model[i]));
    sum += scratch[i];
  }
  const auto t = static_cast<std::size_t>(target);
  PredictionPair pair;
  pair.nats = model_log - static_cast<double>(model[t]);
  pair.base_nats = base_log - static_cast<double>(base[t]);
  // Rounding may leave a tiny negative number for distributions that are equal or nearly so; NaN stays NaN.
  const double divergence = weighted / sum - (base_log - model_log);
  pair.divergence = divergence < 0 ? 0 : divergence;
  pair.same_top = base_top.index[0] == model_top.index[0];
  pair.top5 = share_in_common(base_top, model_top);
  return pair;
}

Estimate mean_over_windows(std::span<const double> totals, std::span<const std::uint64_t> counts) {
  double total = 0;
  double count = 0;
  for (std::size_t w = 0; w < totals.size(); ++w) {
    total += totals[w];
    count += static_cast<double>(counts[w]);
  }
  Estimate estimate;
  estimate.mean = total / count;
  if (totals.size() < 2) return estimate;
  double squares = 0;
  for (std::size_t w = 0; w < totals.size(); ++w) {
    const double residual = totals[w] - estimate.mean * static_cast<double>(counts[w]);
    squares += residual * residual;
  }
  const auto windows = static_cast<double>(totals.size());
  estimate.error = std::sqrt(squares * windows / (windows - 1)) / count;
  return estimate;
}

}  // namespace quant
