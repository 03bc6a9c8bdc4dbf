// What operations need of the weights, in the form in which they use it.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/forward.h"

namespace quant::forward {

/// The weights of one operation. Empty for those that have none.
struct PreparedOp {
  bool ready = false;
  std::vector<Product> products;           ///< of a LinearOp, in the order of its weights
  std::vector<std::vector<float>> biases;  ///< likewise; empty where there is none
  std::vector<float> weight, bias;         ///< of a NormOp

  std::uint64_t bytes() const;
};

PreparedOp prepare_op(const Op& op, const ModelWeights& weights, const ForwardOptions& options);

}  // namespace quant::forward
