#include "plan/pruning.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "dense_layout.h"

namespace quant {

QuantArgs weight_args(const Plan& plan, const PlannedLinear& linear) {
  QuantArgs args = *plan.groups[linear.scheme].scheme.weights;
  args.keep_zeros = args.keep_zeros || !linear.pruning.empty();
  return args;
}

bool is_described(const Plan& plan, const PlannedLinear& linear) {
  const bool compact = plan.layout != nullptr && plan.layout->omits_zeros() && linear.shape.sparsity.has_value();
  return compact || !is_plain(*plan.groups[linear.scheme].scheme.weights);
}

const Layout& layout_for(const Plan& plan, const PlannedLinear& linear) {
  return is_described(plan, linear) ? *plan.layout : dense_layout();
}

std::uint64_t count_violations(std::span<const float> row, std::uint32_t keep, std::uint32_t of) {
  std::uint64_t violations = 0;
  for (std::size_t first = 0; first < row.size(); first += of) {
    const auto group = row.subspan(first, std::min<std::size_t>(of, row.size() - first));
    const auto zeros = static_cast<std::size_t>(std::count(group.begin(), group.end(), 0.0F));
    violations += group.size() - zeros > keep ? 1 : 0;
  }
  return violations;
}

SparsityPattern final_pattern(const PlannedLinear& linear) {
  // Later masks lie within earlier ones, so that each pattern lasts.
  for (const PlannedPruning& pruning : linear.pruning) {
    if (pruning.pattern.semi_structured()) return pruning.pattern;
  }
  return {};
}

std::uint64_t pruned_bytes(const PlannedLinear& linear) {
  if (linear.pruning.empty()) return 0;
  return linear.shape.rows * linear.shape.cols * (sizeof(float) + 1);
}

std::uint64_t pruning_scratch(const PlannedLinear& linear, const std::vector<ModifierAlgorithm>& algorithms,
                              int threads) {
  std::uint64_t most = 0;
  for (const PlannedPruning& pruning : linear.pruning) {
    const Sparsifier& sparsifier = *algorithms[pruning.modifier].sparsifier;
    most = std::max(most, sparsifier.scratch_bytes(pruning.pattern, linear.shape.rows, linear.shape.cols, threads));
  }
  return most;
}

namespace plan_detail {

void add_pruning(const Plan& plan, const Assignment& assignment, const std::vector<ModifierAlgorithm>& algorithms,
                 PlannedLinear& linear) {
  for (const auto& [modifier, rule] : assignment.pruning) {
    const Sparsifier* sparsifier = algorithms[modifier].sparsifier;
    if (sparsifier == nullptr) continue;
    linear.pruning.push_back({modifier, rule, sparsifier->pattern(linear.shape.module)});
  }
  if (linear.pruning.size() != 1 || has_blocks(*plan.groups[linear.scheme].scheme.weights)) return;
  const PlannedPruning& only = linear.pruning.front();
  const auto kept = algorithms[only.modifier].sparsifier->kept(only.pattern, linear.shape.rows, linear.shape.cols);
  if (kept) linear.shape.sparsity = StoredSparsity{*kept, only.pattern.keep, only.pattern.of};
}

void warn_of_idle_pruning(Plan& plan) {
  std::map<std::size_t, bool> idle;
  for (const PlannedLinear& linear : plan.linears) {
    for (const PlannedPruning& pruning : linear.pruning) {
      const bool removes = pruning.pattern.semi_structured() || pruning.pattern.sparsity > 0;
      idle.try_emplace(pruning.modifier, true).first->second &= !removes;
    }
  }
  for (const auto& [modifier, nothing] : idle) {
    const RecipeModifier& one = plan.recipe.modifiers[modifier];
    if (!nothing || one.type == "ConstantPruningModifier") continue;
    plan.warnings.push_back(fmt::format("{}: {} prunes nothing: the sparsity of each of its linears is 0",
                                        one.where.to_string(), one.type));
  }
}

std::size_t plain_group(Plan& plan, std::size_t modifier) {
  std::string name = fmt::format("pruned_{}", modifier);
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    if (plan.groups[i].name != name) continue;
    if (is_plain(*plan.groups[i].scheme.weights)) return i;
    name += "_only";  // a recipe's own group has that name
  }
  SchemeGroup group;
  group.name = name;
  group.scheme.weights = plain_args();
  for (const Pattern& target : plan.recipe.modifiers[modifier].targets) group.scheme.targets.push_back(target.text);
  plan.groups.push_back(std::move(group));
  return plan.groups.size() - 1;
}

std::vector<std::string> pruning_problems(const Plan& plan, const std::vector<ModifierAlgorithm>& algorithms,
                                          const PlannedLinear& linear) {
  std::vector<std::string> problems;
  for (const PlannedPruning& pruning : linear.pruning) {
    auto reason = contradiction(pruning.pattern, linear.shape.rows, linear.shape.cols);
    if (!reason) reason = algorithms[pruning.modifier].sparsifier->unsupported_pattern(pruning.pattern);
    if (reason) problems.push_back(plan.recipe.modifiers[pruning.modifier].where.to_string() + ": " + *reason);
  }
  return problems;
}

std::string pruning_text(const Plan& plan, const PlannedLinear& linear) {
  std::string text;
  for (const PlannedPruning& pruning : linear.pruning) {
    text += fmt::format(" pruned by {} {} to {}", pruning.modifier, plan.recipe.modifiers[pruning.modifier].type,
                        describe(pruning.pattern));
  }
  return text;
}

}  // namespace plan_detail
}  // namespace quant
