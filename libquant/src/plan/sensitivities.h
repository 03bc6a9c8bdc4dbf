// How much the error of each weight counts, from a file beside the model.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/algorithm_set.h"
#include "quant/plan.h"

namespace quant {

/// Importance of rows [first, first + count) of a linear's weight: [count * columns], or [columns] if that is what the
/// file holds, or nothing without a file.
void read_sensitivities(const Plan& plan, const PlannedLinear& linear, std::uint64_t first, std::uint64_t count,
                        std::vector<float>& out);
/// Whether what the rows of this linear share depends on its sensitivities.
bool prepares_with_sensitivities(const Plan& plan, const PlannedLinear& linear);

namespace plan_detail {

/// Finds the sensitivities of every linear whose algorithm or sparse part takes any, by name and shape alone. Adds
/// problems for those that are missing or do not fit, and for recipes that have no use for any.
void find_sensitivities(Plan& plan, const std::vector<ModifierAlgorithm>& algorithms);

}  // namespace plan_detail
}  // namespace quant
