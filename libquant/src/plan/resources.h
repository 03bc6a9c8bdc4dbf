// What a plan needs: memory, threads, time.
#pragma once

#include <vector>

#include "plan/algorithm_set.h"
#include "quant/plan.h"

namespace quant::plan_detail {

/// Chooses threads and slice size under the memory limit; fills peak_memory and seconds_estimate. `algorithms`: of the
/// recipe's modifiers.
void estimate_resources(Plan& plan, const std::vector<ModifierAlgorithm>& algorithms);

}  // namespace quant::plan_detail

namespace quant {

/// Source bytes of linears that are pruned together, where no data is needed: each then exists as floats in memory.
inline constexpr std::uint64_t kPrunedBytes = 8U << 20U;
/// Rows of `linear` that one thread codes at a time: about plan.slice_weights weights, a multiple of what scheme and
/// layout need.
std::uint64_t slice_rows(const Plan& plan, const PlannedLinear& linear);
/// Rows that a slice of this linear must be a multiple of.
std::uint64_t slice_alignment(const Plan& plan, const PlannedLinear& linear);
/// Bytes of one piece of a tensor that is copied unchanged.
inline constexpr std::uint64_t kCopyChunk = 4U << 20U;

}  // namespace quant
