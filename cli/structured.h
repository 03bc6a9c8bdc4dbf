// `quant plan` and `quant run` for recipes that change the shapes of a model (quant/structured.h).
#pragma once

#include <optional>
#include <string>

#include "plan_request.h"
#include "run_evaluation.h"
#include "session.h"

namespace quant::cli {

/// What of `quant run`'s options counts here.
struct StructuredRunRequest {
  EvaluationRequest evaluation;
  std::string output;
  bool resume = false;
  bool overwrite_partial = false;
  bool quiet = false;
  bool mixed = false;  ///< options of mixed precision were given
};

/// What a batch needs to know of a plan.
struct StructuredOutline {
  std::vector<std::string> problems;
  std::vector<std::string> warnings;
  std::uint64_t peak_memory = 0;
};
/// Nothing for other recipes. Throws as plan_structured_recipe.
std::optional<StructuredOutline> outline_structured_recipe(const PlanRequest& request, bool mixed,
                                                           const Registry& registry);

/// The exit code if the recipe is one of these, else nothing.
std::optional<int> plan_structured_recipe(const PlanRequest& request, Session& session);
std::optional<int> run_structured_recipe(const PlanRequest& request, const StructuredRunRequest& run, Session& session);

}  // namespace quant::cli
