#include "quant/shared_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "plan/calibration_work.h"
#include "quant/sparsity_profile.h"
#include "quant/statistics_file.h"

namespace quant {
namespace {

std::string own_pass_reason(const Plan& plan, const CalibrationWork& work) {
  if (!plan.options.calibration.unquantized_inputs) {
    return "its linears learn from inputs in which earlier ones are quantized by this recipe";
  }
  if (work.statistics != nullptr) return "it has statistics already";
  if (work.save_statistics) return "it saves the statistics of its pass";
  if (work.second_stream) return "it runs two models side by side";
  if (!plan.caches.empty()) return "it learns from keys and values";
  for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
    if (work.algorithms[m].transform != nullptr) return plan.recipe.modifiers[m].type + " rescales the model";
    if (!sparsity_profile(plan.recipe.modifiers[m]).empty()) return "its sparsities are measured first";
  }
  return {};
}

}  // namespace

StatisticsDemand statistics_demand(const Plan& plan) {
  StatisticsDemand demand;
  if (!plan.calibration || plan.work == nullptr) {
    demand.reason = "it learns from no data";
    return demand;
  }
  demand.reason = own_pass_reason(plan, *plan.work);
  for (const BlockWork& block : plan.work->blocks) {
    for (const Sweep& sweep : block.sweeps) {
      for (const InputUnit& unit : sweep.units) {
        const std::vector<std::string> modules = modules_of(plan, unit);
        demand.modules.insert(demand.modules.end(), modules.begin(), modules.end());
      }
    }
  }
  if (demand.modules.empty() && demand.reason.empty()) demand.reason = "none of its linears learns from data";
  // The same chunks: a product of other rows may be computed by another kernel.
  const CalibrationPlan& data = *plan.calibration;
  demand.pass = fmt::format("{} {} {} {} {}", model_fingerprint(*plan.checkpoint), data.hash, data.chunk_tokens,
                            data.product == ProductType::bf16 ? "bf16" : "f32",
                            plan.options.calibration.all_experts ? "all experts" : "chosen experts");
  return demand;
}

// Static ranges of inputs are the least that makes a pass; what is saved is more than a recipe asks for.
std::string collecting_recipe(const std::vector<std::string>& modules) {
  const nlohmann::ordered_json scheme = {
      {"targets", modules},
      {"weights", {{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}}},
      {"input_activations",
       {{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "tensor"}, {"dynamic", false}}}};
  nlohmann::ordered_json recipe;
  recipe["statistics_stage"]["statistics_modifiers"]["QuantizationModifier"]["config_groups"]["all"] = scheme;
  return recipe.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace quant
