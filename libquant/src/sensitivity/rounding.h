// A linear's weight as it comes back from a scheme, without writing anything.
#pragma once

#include <memory>
#include <vector>

#include "quant/algorithm.h"
#include "quant/plan.h"

namespace quant::sensitivity {

/// Rounds with the recipe's own quantizer where it needs no data, else with plain rounding in the same scheme.
class WeightRounder {
 public:
  /// `modifier`: the one whose linears are rounded. Throws Error{unsupported} if the build has no plain rounding.
  WeightRounder(const RecipeModifier& modifier, const Registry& registry, const Layout& layout, int threads);

  /// Why a linear cannot have a scheme, or nothing.
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const;
  /// `weight` [rows, cols], dequantized after rounding; `sums` receives the errors.
  std::vector<float> rounded(const std::vector<float>& weight, const Scheme& scheme, const LinearShape& linear,
                             ErrorSums& sums) const;

 private:
  std::unique_ptr<Algorithm> algorithm_;
  const Quantizer* quantizer_ = nullptr;
  const Layout& layout_;
  bool ragged_allowed_ = false;
  int threads_ = 1;
};

}  // namespace quant::sensitivity
