// One pass over calibration data for several recipes: what a plan learns, and whether a file can tell it the same.
#pragma once

#include <string>
#include <vector>

#include "quant/plan.h"

namespace quant {

struct StatisticsDemand {
  std::string reason;  ///< why the plan needs a pass of its own; empty: a shared one gives the same bytes
  std::string
      pass;  ///< plans with equal texts are served by the same pass: model, data, division into chunks, products
  std::vector<std::string> modules;  ///< linears that learn from data
};

/// Of a plan without problems.
StatisticsDemand statistics_demand(const Plan& plan);

/// Text of a recipe whose run with `unquantized_inputs` and `save_statistics` collects the inputs of these modules.
std::string collecting_recipe(const std::vector<std::string>& modules);

}  // namespace quant
