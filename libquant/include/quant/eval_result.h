// What an evaluation found: perplexity, and how far a model diverges from another. quant/evaluate.h computes it.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace quant {

/// A mean and its standard error; NaN where it cannot be told (fewer than two windows).
struct Estimate {
  double mean = 0;
  double error = std::numeric_limits<double>::quiet_NaN();
};

struct Divergence {
  Estimate mean;  ///< of KL(base || model) per prediction, in nats
  double median = 0, percent90 = 0, percent99 = 0, percent999 = 0, maximum = 0;  ///< over all predictions
};

struct BaseComparison {
  Estimate nats;           ///< of the base, per prediction
  Estimate perplexity;     ///< of the base
  Estimate nats_increase;  ///< model less base; paired by window
  Estimate increase;       ///< of the perplexity; paired by window
  Divergence divergence;
  Estimate same_top;  ///< share of predictions with the same likeliest token
  Estimate top5;      ///< mean share of common tokens among the five likeliest
};

struct EvalResult {
  std::uint64_t windows = 0;
  std::uint64_t tokens = 0;         ///< of all windows
  std::uint64_t predictions = 0;    ///< tokens less one per window
  Estimate nats;                    ///< -ln p per prediction
  Estimate perplexity;              ///< exp(nats), its error by propagation
  std::vector<double> window_nats;  ///< mean of each window
  std::optional<BaseComparison> base;
};

}  // namespace quant
