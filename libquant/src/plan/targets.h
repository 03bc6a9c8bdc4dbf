// Which module gets which scheme, by which rule.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quant/model.h"
#include "quant/plan.h"

namespace quant::plan_detail {

/// The decision for one module.
struct Assignment {
  int modifier = -1;                                         ///< index into Recipe::modifiers, or -1: stays as it is
  int scheme = -1;                                           ///< index into RecipeModifier::schemes
  std::string rule;                                          ///< the target that chose it
  std::string reason;                                        ///< why it stays as it is, if it does
  std::vector<std::pair<std::size_t, std::string>> pruning;  ///< modifiers that prune it, and their targets
  bool class_targeted = false;                               ///< a quantizing target names or would reach its class
};

/// One assignment per module of the outline. Adds problems and warnings (patterns that match nothing, modules claimed
/// twice).
std::vector<Assignment> assign_targets(const Recipe& recipe, const ModelOutline& outline, Plan& plan);

/// Warns of weights that are used as linears but lie in the file as no matrix [out, in]: what `outline` has of
/// transposed ones (Conv1D) and of fused experts (3-D), unless an ignore list names them.
void warn_of_other_linears(const Recipe& recipe, const ModelOutline& outline, Plan& plan);

}  // namespace quant::plan_detail
