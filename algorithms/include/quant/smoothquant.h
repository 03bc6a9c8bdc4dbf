// SmoothQuant: moves the range of activations into weights, so that both can be quantized. Library quant::algorithms.
// Source: Xiao et al., "SmoothQuant", arXiv 2211.10438; conventions of llm-compressor's SmoothQuantModifier.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quant/calibrated.h"
#include "quant/registry.h"

namespace quant {

enum class ActivationRange {
  range,  ///< max x - min x, 0 included; with 2 max |w| (llm-compressor)
  absmax  ///< max |x|; with max |w| (the paper)
};

struct SmoothQuantOptions {
  std::optional<double> strength = 0.5;  ///< alpha; empty: chosen per group by the error of the outputs
  bool log_equalization = false;         ///< s = a / log2(2 + a), without regard to the weights
  ActivationRange range = ActivationRange::range;
  int grid = 20;  ///< automatic: alpha = 0, 1/grid, ..., 1
};

/// s_j = a_j^alpha / w_j^(1 - alpha), at least 1e-5, computed in float64. `activations`, `weights` [cols]: range of the
/// inputs and of the weights per column. A column of zero weights gets a_j; one whose inputs were never anything but 0
/// gets 1 (nothing is known of it). Throws Error{usage} for alpha outside [0, 1] or sizes that differ.
std::vector<float> smoothquant_factors(std::span<const double> activations, std::span<const double> weights,
                                       double alpha);
/// s_j = a_j / log2(2 + a_j), at least 1e-5; 1 where a_j is 0.
std::vector<float> log_equalization_factors(std::span<const double> activations);

struct SmoothQuantResult {
  std::vector<float> factors;  ///< [cols]; empty: no factors are better than these
  double alpha = 0;
  double loss = 0;           ///< automatic only: mean squared output error of the group, summed over its outputs
  double loss_unscaled = 0;  ///< the same without factors
};
/// Factors of a group. Needs inputs.absmax (with minimum and maximum), and inputs.rows for the automatic strength: then
/// both the weights and the inputs of each reader are quantized as its args and input_args say, and the alpha of the
/// grid with the least error wins; no factors where none is below that of the group as it is.
/// The result does not depend on `threads`.
SmoothQuantResult smoothquant(const SmoothingGroup& group, const InputStatistics& inputs,
                              const SmoothQuantOptions& options, int threads);

/// The modifier, from a recipe's parameters (algorithms/smoothquant/README.md). Throws Error{recipe} beginning with the
/// name of a parameter that is wrong.
std::unique_ptr<Transform> make_smoothquant(const Parameters& parameters);

}  // namespace quant
