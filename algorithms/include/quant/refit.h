// What is left of a pruned weight, changed to make up for what is gone. Library quant::algorithms.
#pragma once

#include <cstdint>
#include <span>

#include "quant/calibrated.h"

namespace quant {

enum class Refit {
  none,
  scale,  ///< each row times one factor
  exact   ///< each kept weight for itself: least squares
};

struct RefitOptions {
  Refit kind = Refit::none;
  double dampening_frac =
      0.01;                 ///< of H's mean diagonal, added to its diagonal: holds weights near what they were; >= 0
  double asymmetric = 0;    ///< 0..1: how much of the error of earlier layers is compensated; 0: none
  double residual = 0;      ///< 0..1: how much of the error of what its outputs are added to is compensated
  double tolerance = 1e-3;  ///< exact: a row is done at this residual, relative to its right-hand side; > 0
  std::uint64_t iterations = 200;  ///< exact: at most so many
};

/// The statistics that refit_weights reads with these options.
CalibrationNeeds refit_needs(const RefitOptions& options);

/// Changes the kept weights (mask [rows, cols] of 0 and 1) of `pruned` [rows, cols], which is 0 elsewhere, so that its
/// outputs are nearest those of `original` [rows, cols]: V minimizes tr((T - V) H' (T - V)^T) over all V with that mask
/// (Refit::scale: over the factors of the rows). H' = inputs.gram with the damping, T H' = original H' + asymmetric
/// original C + residual D; C, D: inputs.cross_gram and .residual. Exact: by conjugate gradients from `pruned` on,
/// all rows at once; the residual is measured in the norm of the inverse diagonal. The error never grows but for
/// rounding. Threads do not change the result. What cannot be used (few tokens, numbers that are not finite) leaves
/// `pruned` as it is; the record's notes say so. Throws Error{usage} for options out of range and sizes that do not
/// fit, Error{interrupted} if context.stop is set.
void refit_weights(std::span<float> pruned, std::span<const float> original, std::span<const std::uint8_t> mask,
                   std::uint64_t rows, const InputStatistics& inputs, const RefitOptions& options,
                   const RunContext& context, SolveRecord& record);

/// bias += (original - pruned) mean: what the change of a weight [rows, cols] takes from the mean output comes back.
/// bias [rows], mean [cols]: mean x of the inputs. In float64. Throws Error{usage} for sizes that do not fit,
/// Error{numerical} if the result is not finite (bias is then unchanged).
void correct_bias(std::span<float> bias, std::span<const float> original, std::span<const float> pruned,
                  std::span<const float> mean, int threads = 1);

}  // namespace quant
