// What a calibrated recipe asks for and the model's forward pass cannot give it.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plan/calibration_work.h"
#include "quant/names.h"

namespace quant {
namespace {

bool is_coded(const Plan& plan, const std::string& module) {
  return std::any_of(plan.linears.begin(), plan.linears.end(),
                     [&](const PlannedLinear& linear) { return linear.shape.module == module; });
}

}  // namespace

namespace plan_detail {

bool is_ignored(const RecipeModifier& modifier, const std::string& module) {
  return std::any_of(modifier.ignore.begin(), modifier.ignore.end(), [&](const Pattern& pattern) {
    return NamePattern(pattern.text).match(module, "Linear").has_value();
  });
}

void warn_of_idle_transforms(Plan& plan, const CalibrationWork& work) {
  for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
    if (work.algorithms[m].transform == nullptr) continue;
    const RecipeModifier& modifier = plan.recipe.modifiers[m];
    std::size_t groups = 0;
    for (const BlockWork& block : work.blocks) {
      for (const WorkSite& site : block.sites) {
        groups += static_cast<std::size_t>(std::count(site.modifiers.begin(), site.modifiers.end(), m));
      }
    }
    if (groups == 0) {
      plan.warnings.push_back(fmt::format("{}: {} rescales nothing: no group of linears that it wants is quantized",
                                          modifier.where.to_string(), modifier.type));
    }
  }
}

void warn_of_head(Plan& plan, const CalibrationWork& work) {
  for (const Op& op : work.program.head.ops) {
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr || !is_coded(plan, linear->weights.front().module)) continue;
    for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
      const RecipeModifier& modifier = plan.recipe.modifiers[m];
      const std::string& module = linear->weights.front().module;
      if (work.algorithms[m].transform == nullptr || is_ignored(modifier, module)) continue;
      plan.warnings.push_back(
          fmt::format("{}: {} rescales the inputs of blocks, not those of {}, which is quantized "
                      "without it",
                      modifier.where.to_string(), modifier.type, module));
    }
  }
}

void require_reach(Plan& plan, const CalibrationWork& work) {
  std::vector<std::string> unreached;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    if (!work.linear_is_here[i] && needs_of(plan, work, i).any()) {
      unreached.push_back(plan.linears[i].shape.module);
    }
  }
  if (unreached.empty()) return;
  plan.problems.push_back(fmt::format(
      "{}{}: the model's forward pass does not compute the inputs of {} linear{} here; ignore {}, or give "
      "{} to a QuantizationModifier",
      fmt::join(unreached.begin(), unreached.begin() + std::min<std::ptrdiff_t>(3, std::ssize(unreached)), ", "),
      unreached.size() > 3 ? fmt::format(" and {} more", unreached.size() - 3) : "", unreached.size(),
      unreached.size() == 1 ? "" : "s", unreached.size() == 1 ? "it" : "them", unreached.size() == 1 ? "it" : "them"));
}

}  // namespace plan_detail
}  // namespace quant
