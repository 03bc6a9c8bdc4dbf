#include <algorithm>
#include <cmath>

#include "evaluate/eval_loop.h"
#include "quant/evaluate.h"

namespace quant {
namespace {

using evaluate::WantedRow;

/// What is kept of every prediction.
struct Predictions {
  std::vector<WantedRow> rows;
  std::vector<double> nats;
  std::vector<double> base_nats;
  std::vector<double> divergence;
  std::vector<double> same_top;
  std::vector<double> top5;
};

Predictions all_predictions(evaluate::Sequences sequences, bool base) {
  Predictions p;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t t = 0; t + 1 < sequences[s].size(); ++t) p.rows.push_back({s, t});
  }
  p.nats.resize(p.rows.size());
  for (auto* list : {&p.base_nats, &p.divergence, &p.same_top, &p.top5}) list->resize(base ? p.rows.size() : 0);
  return p;
}

/// Totals per window of a quantity of each prediction.
class Windows {
 public:
  explicit Windows(evaluate::Sequences sequences) {
    for (const auto& sequence : sequences) counts_.push_back(sequence.size() - 1);
  }
  const std::vector<std::uint64_t>& counts() const { return counts_; }
  std::vector<double> totals(std::span<const double> values) const {
    std::vector<double> totals;
    std::size_t next = 0;
    for (const std::uint64_t count : counts_) {
      double sum = 0;
      for (std::uint64_t i = 0; i < count; ++i) sum += values[next++];
      totals.push_back(sum);
    }
    return totals;
  }
  Estimate mean(std::span<const double> values) const { return mean_over_windows(totals(values), counts_); }

 private:
  std::vector<std::uint64_t> counts_;
};

Estimate perplexity_of(const Estimate& nats) {
  const double perplexity = std::exp(nats.mean);
  return {perplexity, perplexity * nats.error};
}

/// To first order the perplexities vary with the windows as perplexity * nats; windows that both models find hard
/// cancel.
Estimate perplexity_increase(const Windows& windows, const Predictions& p, double perplexity, double base_perplexity) {
  std::vector<double> weighted(p.nats.size());
  for (std::size_t i = 0; i < weighted.size(); ++i) {
    weighted[i] = perplexity * p.nats[i] - base_perplexity * p.base_nats[i];
  }
  return {perplexity - base_perplexity, windows.mean(weighted).error};
}

/// The value below which that share of the sorted values lies, interpolated between neighbours.
double percentile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - std::floor(place)) * (sorted[high] - sorted[low]);
}

Divergence divergence_of(const Windows& windows, std::vector<double> values) {
  Divergence divergence;
  divergence.mean = windows.mean(values);
  std::sort(values.begin(), values.end());
  divergence.median = percentile(values, 0.5);
  divergence.percent90 = percentile(values, 0.9);
  divergence.percent99 = percentile(values, 0.99);
  divergence.percent999 = percentile(values, 0.999);
  divergence.maximum = values.back();
  return divergence;
}

BaseComparison compare(const Windows& windows, Predictions& p, double perplexity) {
  BaseComparison base;
  base.nats = windows.mean(p.base_nats);
  base.perplexity = perplexity_of(base.nats);
  std::vector<double> difference(p.nats.size());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = p.nats[i] - p.base_nats[i];
  base.nats_increase = windows.mean(difference);
  base.increase = perplexity_increase(windows, p, perplexity, base.perplexity.mean);
  base.same_top = windows.mean(p.same_top);
  base.top5 = windows.mean(p.top5);
  base.divergence = divergence_of(windows, std::move(p.divergence));
  return base;
}

void check_finite(const Predictions& p, const LogitModel& model, const LogitModel* base) {
  for (std::size_t i = 0; i < p.rows.size(); ++i) {
    if (!p.base_nats.empty() && !std::isfinite(p.base_nats[i])) evaluate::throw_not_finite(*base, p.rows[i], true);
    if (!std::isfinite(p.nats[i])) evaluate::throw_not_finite(model, p.rows[i], false);
  }
}

EvalResult summarize_predictions(evaluate::Sequences sequences, Predictions&& p) {
  const Windows windows(sequences);
  EvalResult result;
  result.windows = sequences.size();
  result.predictions = p.rows.size();
  result.tokens = result.predictions + result.windows;
  result.nats = windows.mean(p.nats);
  result.perplexity = perplexity_of(result.nats);
  result.window_nats = windows.totals(p.nats);
  for (std::size_t w = 0; w < result.windows; ++w) {
    result.window_nats[w] /= static_cast<double>(windows.counts()[w]);
  }
  if (!p.base_nats.empty()) result.base = compare(windows, p, result.perplexity.mean);
  return result;
}

}  // namespace

EvalResult evaluate_perplexity(LogitModel& model, LogitModel* base,
                               std::span<const std::vector<std::int32_t>> sequences, const EvalOptions& options) {
  evaluate::check_sequences(model, base, sequences);
  Predictions p = all_predictions(sequences, base != nullptr);
  evaluate::for_each_row(model, base, sequences, p.rows, options,
                         [&](std::uint64_t place, const WantedRow& row, std::span<const float> base_logits,
                             std::span<const float> logits, std::vector<double>& scratch) {
                           const std::int32_t target = sequences[row.sequence][row.token + 1];
                           if (base_logits.empty()) {
                             p.nats[place] = token_loss(logits, target);
                             return;
                           }
                           const PredictionPair pair = compare_predictions(base_logits, logits, target, scratch);
                           p.nats[place] = pair.nats;
                           p.base_nats[place] = pair.base_nats;
                           p.divergence[place] = pair.divergence;
                           p.same_top[place] = pair.same_top ? 1 : 0;
                           p.top5[place] = pair.top5;
                         });
  check_finite(p, model, base);
  return summarize_predictions(sequences, std::move(p));
}

}  // namespace quant
