#include "plan_request.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "quant/error.h"
#include "quant/open.h"
#include "ready_recipes.h"
#include "units.h"

namespace quant::cli {

void add_plan_options(CLI::App& command, PlanRequest& request) {
  command.add_option("RECIPE", request.recipe, "Recipe file, or the name of a ready recipe ('quant recipes')")
      ->required();
  command.add_option("--model", request.model, "Checkpoint to compress: directory or .safetensors file")
      ->type_name("DIR");
  command.add_option("--set", request.set, "Value of a variable of the recipe; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command.add_option("--layout", request.layout, "Layout of the output")->type_name("NAME")->capture_default_str();
  command.add_option("--shard-size", request.shard_size, "Largest size of an output file")
      ->type_name("SIZE")
      ->capture_default_str();
  command.add_option("--memory", request.memory, "Memory that may be used, as in 8G; no limit by default")
      ->type_name("SIZE");
  add_threads_option(command, request.threads);
  command.add_flag("--strict", request.strict, "Treat warnings, such as a target that matches nothing, as errors");
}

RecipeVariables parse_variables(const std::vector<std::string>& assignments) {
  RecipeVariables variables;
  for (const std::string& assignment : assignments) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorCode::usage, fmt::format("--set: '{}' is not NAME=VALUE", assignment),
                  "as in --set group_size=64");
    }
    variables[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  return variables;
}

PreparedPlan prepare_plan(const PlanRequest& request, const Registry& registry, const std::string& command) {
  if (request.model.empty()) {
    throw Error(ErrorCode::usage, fmt::format("quant {} needs --model DIR: the checkpoint to compress", command),
                fmt::format("try the example model: quant {} {} --model examples/tiny-llama-novels{}", command,
                            request.recipe, command == "run" ? " --output tiny-quantized" : ""),
                "NoModel");
  }
  PlanOptions options;
  options.layout = request.layout;
  options.shard_bytes = parse_size(request.shard_size, "--shard-size");
  options.memory_bytes = request.memory.empty() ? 0 : parse_size(request.memory, "--memory");
  options.threads = request.threads;
  const RecipeVariables variables = parse_variables(request.set);

  PreparedPlan prepared;
  prepared.recipe_file = find_recipe(request.recipe);
  spdlog::debug("recipe {}", prepared.recipe_file.string());
  const Recipe recipe = load_recipe(prepared.recipe_file, variables, registry);
  prepared.checkpoint = open_checkpoint(request.model);
  spdlog::debug("opened {}: {} tensors", request.model, prepared.checkpoint->tensors().size());
  prepared.plan = make_plan(*prepared.checkpoint, recipe, registry, options);
  if (request.strict) {
    Plan& plan = prepared.plan;
    plan.problems.insert(plan.problems.end(), plan.warnings.begin(), plan.warnings.end());
    plan.warnings.clear();
  }
  return prepared;
}

}  // namespace quant::cli
