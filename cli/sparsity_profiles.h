// Recipes whose sparsifiers share zeros out between linears: the shares are found, then the recipe says them.
#pragma once

#include "plan_request.h"

namespace quant::cli {

/// Whether a modifier of the plan's recipe has a sparsity_profile.
bool has_sparsity_profiles(const Plan& plan);
/// Replaces each profile of the plan's recipe by the sparsity of each linear, and the plan by that of this recipe. Runs
/// the unpruned model where a profile asks for it; draws progress unless `quiet`. Throws Error{usage} without
/// --calibration where one is needed.
void resolve_sparsity_profiles(const PlanRequest& request, const Registry& registry, bool quiet,
                               PreparedPlan& prepared);

}  // namespace quant::cli
