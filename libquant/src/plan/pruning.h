// Which linears of a plan are pruned, and what follows from it for coding and storing them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/algorithm_set.h"
#include "plan/targets.h"
#include "quant/plan.h"

namespace quant {

/// How the weights of a linear are coded: its scheme's arguments, with keep_zeros where it is pruned.
QuantArgs weight_args(const Plan& plan, const PlannedLinear& linear);
/// Whether the plan's layout stores a linear and config.json names it; else it is a tensor like any other.
bool is_described(const Plan& plan, const PlannedLinear& linear);
/// The layout that stores a linear: that of the plan, or dense tensors for plain numbers.
const Layout& layout_for(const Plan& plan, const PlannedLinear& linear);

/// Groups of `of` weights of a row with more than `keep` that are not 0.
std::uint64_t count_violations(std::span<const float> row, std::uint32_t keep, std::uint32_t of);
/// The N:M pattern that the weights of a linear must have in the end; of == 0: none.
SparsityPattern final_pattern(const PlannedLinear& linear);

/// float32 weights and mask of a linear after all its sparsifiers.
struct PrunedWeight {
  std::vector<float> values;
  std::vector<std::uint8_t> mask;
};
/// Bytes of a PrunedWeight; 0 for linears that are not pruned.
std::uint64_t pruned_bytes(const PlannedLinear& linear);
/// Bytes that pruning takes beside it, and beside statistics.
std::uint64_t pruning_scratch(const PlannedLinear& linear, const std::vector<ModifierAlgorithm>& algorithms,
                              int threads);

namespace plan_detail {

/// Records the sparsifiers of an assignment in a linear, with the patterns that they ask for.
void add_pruning(const Plan& plan, const Assignment& assignment, const std::vector<ModifierAlgorithm>& algorithms,
                 PlannedLinear& linear);
/// Warns of modifiers that give each of their linears a share of 0, as where the names of a mapping match none.
void warn_of_idle_pruning(Plan& plan);
/// The scheme of linears that modifier `m` prunes and nothing quantizes; made when first asked for.
std::size_t plain_group(Plan& plan, std::size_t modifier);
/// Why a linear cannot be pruned so, as sentences.
std::vector<std::string> pruning_problems(const Plan& plan, const std::vector<ModifierAlgorithm>& algorithms,
                                          const PlannedLinear& linear);
/// What the plan's identity says of a linear's pruning.
std::string pruning_text(const Plan& plan, const PlannedLinear& linear);

}  // namespace plan_detail
}  // namespace quant
