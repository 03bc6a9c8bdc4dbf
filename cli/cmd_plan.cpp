// quant plan: what a recipe would do, before any weight is read.
#include <fmt/format.h>

#include <cstdio>

#include "errors.h"
#include "plan_request.h"
#include "plan_text.h"
#include "structured.h"

namespace quant::cli {
namespace {

struct PlanCommand {
  PlanRequest request;
  bool all = false;
};

int plan_command(const PlanCommand& options, Session& session) {
  if (const auto code = plan_structured_recipe(options.request, session)) return *code;
  const PreparedPlan prepared = prepare_plan(options.request, session.registry, "plan");
  const Plan& plan = prepared.plan;
  write_stdout(session.json ? json_text(plan_json(plan)) : plan_text(plan, options.all));
  std::fputs(plan_remarks(plan).c_str(), stderr);
  return plan.problems.empty() ? kExitOk : exit_code(problem_code(plan));
}

}  // namespace

void add_plan(CLI::App& program, Session& session) {
  const auto options = std::make_shared<PlanCommand>();
  CLI::App* command =
      add_command(program, session, "plan", "Show what a recipe would do to a model, without reading weights",
                  "quant plan w4a16 --model examples/tiny-llama-novels", options, plan_command);
  add_plan_options(*command, options->request);
  command->add_flag("--all", options->all, "List every tensor that is copied unchanged, not only the reasons");
}

}  // namespace quant::cli
