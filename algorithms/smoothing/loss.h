// How much worse a group of linears computes when its columns are multiplied by factors and then rounded.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "quant/calibrated.h"

namespace quant::smoothing {

/// Objects keep buffers between calls; not for several threads at once.
class GroupLoss {
 public:
  virtual ~GroupLoss() = default;
  /// Squared error of the outputs of all quantized readers, summed over outputs and averaged over inputs.
  /// `s` [cols], empty: no factors. Infinite if scaled weights leave the range of floats.
  virtual double of(std::span<const float> s) = 0;
};

/// From the Gram matrix: sum of tr(D H D^T), D = Q(W diag(s)) diag(1/s) - W. Does not see quantized inputs.
std::unique_ptr<GroupLoss> make_gram_loss(const SmoothingGroup& group, const InputStatistics& inputs, int threads);

/// From sampled rows X: |Qa(X diag(1/s)) Q(W diag(s))^T - X W^T|^2 / rows, with Qa of each reader's input_args
/// (nothing where these are empty).
std::unique_ptr<GroupLoss> make_output_loss(const SmoothingGroup& group, const InputStatistics& inputs, int threads);

}  // namespace quant::smoothing
