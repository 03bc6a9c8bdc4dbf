// The options of `quant run`, for it and for those that start it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "mixed_plan.h"
#include "plan_request.h"
#include "run_evaluation.h"

namespace quant::cli {

struct RunCommand {
  PlanRequest request;
  MixedRequest mixed;
  EvaluationRequest evaluation;
  std::string output;
  bool resume = false;
  bool overwrite_partial = false;
  bool quiet = false;
};

void add_run_options(CLI::App& command, RunCommand& options);

/// What follows "quant run" on a command line. Throws Error{usage} as the command does before it looks at the model.
RunCommand parse_run(const std::vector<std::string>& arguments);

}  // namespace quant::cli
