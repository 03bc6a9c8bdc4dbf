// A plan as text and as JSON.
#pragma once

#include <string>

#include "output.h"
#include "quant/plan.h"

namespace quant::cli {

Json plan_json(const Plan& plan);
/// Tables of all linears and of what is skipped (every tensor if `all`, else one line per reason), then the totals.
std::string plan_text(const Plan& plan, bool all);
/// One line for each problem and warning, for stderr; empty if there are none.
std::string plan_remarks(const Plan& plan);
/// Error{recipe} with all problems in its message, one to a line.
/// What a plan that has problems ends a command with: the recipe's code, or that of the data that could not be read.
ErrorCode problem_code(const Plan& plan);
[[noreturn]] void throw_problems(const Plan& plan);
/// "int4 sym group 128" of a planned linear.
std::string scheme_text(const Plan& plan, const PlannedLinear& linear);

}  // namespace quant::cli
