// AWQ: scales channels so that the weights that meet large activations are rounded least. Library quant::algorithms.
// Source: Lin et al., "AWQ", arXiv 2306.00978; the grid and duo scaling of llm-compressor's AWQModifier.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quant/calibrated.h"
#include "quant/registry.h"

namespace quant {

enum class DuoScaling {
  no,   ///< s = x^r
  yes,  ///< s = x^r / (w^(1 - r) + 1e-4)
  both  ///< half of the grid each
};

enum class AwqLoss {
  gram,    ///< tr(D H D^T) from the Gram matrix of all inputs: does not see quantized inputs
  outputs  ///< error of real outputs over sampled rows, with quantized inputs where the scheme has them
};

struct AwqClipOptions {
  bool enabled = false;
  int grid = 20;            ///< factors 1, 1 - 1/grid, ...
  double max_shrink = 0.5;  ///< ... above 1 - max_shrink
};

struct AwqOptions {
  DuoScaling duo_scaling = DuoScaling::yes;
  int n_grid = 20;  ///< points of the grid, the identity among them; at least 3
  AwqLoss loss = AwqLoss::gram;
  AwqClipOptions clip;
};

/// A point of the search grid.
struct AwqPoint {
  double ratio = 0;
  bool duo = false;
  bool identity = false;  ///< no factors at all
};
/// The grid, identity first. no: r = i / (n - 1). yes: the identity, then n - 1 points r = i / (n - 2).
/// both: n / 2 ratios i / (n/2 - 1), each with and without weights. Throws Error{usage} for n_grid < 3.
std::vector<AwqPoint> awq_grid(DuoScaling duo, int n_grid);

/// w_j: |w| over the largest magnitude (plus 1e-6) of its scale's group, averaged over the rows of all quantized
/// readers [cols].
std::vector<double> awq_weight_means(const SmoothingGroup& group, int threads);

/// s = x^r, or x^r / (w^(1 - r) + 1e-4) with `weight_means`; at least 1e-4; then divided by sqrt(max s * min s);
/// factors that are not finite become 1. In float64. Channels whose inputs were never anything but 0 stay out of max
/// and min and get 1. `weight_means` empty: without duo scaling. Throws Error{usage} for sizes that differ.
std::vector<float> awq_factors(std::span<const double> input_means, std::span<const double> weight_means, double ratio);

struct AwqResult {
  std::vector<float> factors;  ///< [cols]; empty: the identity is best
  AwqPoint point;
  double loss = 0;           ///< of `factors`
  double loss_unscaled = 0;  ///< of the identity; loss <= loss_unscaled
};
/// The point of the grid with the least loss (of equal ones the first), each reader rounded to nearest by its own
/// arguments. Needs inputs.mean_abs, and inputs.gram or inputs.rows for the loss. Throws Error{usage} without them.
/// The result does not depend on context.threads. context.stop set: Error{interrupted}.
AwqResult awq_search(const SmoothingGroup& group, const InputStatistics& inputs, const AwqOptions& options,
                     const RunContext& context);

/// Limits each group of a row to a fraction of its largest magnitude: that of the grid with the least error
/// d H_g d^T (H_g: the group's block of the Gram matrix), d the rounding error after the limit. Rows whose error
/// d H d^T over all columns would grow are left alone. Changes task.weight; returns how many groups were limited.
/// Strategies group, channel and MX; others are left alone (0). Needs inputs.gram. Threads do not change the result.
std::uint64_t awq_clip(LinearTask& task, const InputStatistics& inputs, const AwqClipOptions& options,
                       const RunContext& context);

/// The modifier, from a recipe's parameters (algorithms/awq/README.md). Throws Error{recipe} beginning with the name of
/// a parameter that is wrong.
std::unique_ptr<Transform> make_awq(const Parameters& parameters);

}  // namespace quant
