#include "structured.h"

#include <fmt/format.h>

#include <cstdio>

#include "errors.h"
#include "eval_text.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "quant/error.h"
#include "quant/open.h"
#include "quant/structured.h"
#include "ready_recipes.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct Prepared {
  std::unique_ptr<Checkpoint> checkpoint;
  StructuredPlan plan;
};

// Options that mean something to quantization only.
void check_options(const PlanRequest& request, bool mixed) {
  const std::pair<bool, const char*> given[] = {{request.layout != kAutomaticLayout, "--layout"},
                                                {!request.sensitivities.empty(), "--sensitivities"},
                                                {!request.statistics.empty(), "--statistics"},
                                                {!request.save_statistics.empty(), "--save-statistics"},
                                                {request.block_errors, "--block-errors"},
                                                {request.all_experts, "--all-experts"},
                                                {request.unquantized_inputs, "--unquantized-inputs"},
                                                {mixed, "a target of mixed precision"}};
  for (const auto& [is_given, name] : given) {
    if (!is_given) continue;
    throw Error(ErrorCode::usage, fmt::format("{} has no meaning for a recipe that changes the model's shapes", name),
                "leave it out", "NotForStructure");
  }
}

std::optional<Recipe> structured_recipe(const PlanRequest& request, const Registry& registry) {
  if (request.model.empty()) return std::nullopt;  // said by whoever handles other recipes
  Recipe recipe = load_recipe(find_recipe(request.recipe), parse_variables(request.set), registry);
  if (!is_restructuring(recipe, registry)) return std::nullopt;
  return recipe;
}

Prepared prepare(const PlanRequest& request, const Recipe& recipe, const Registry& registry, bool mixed) {
  const StructuredOptions options = structured_options(recipe, registry);
  check_options(request, mixed);
  Prepared prepared;
  prepared.checkpoint = open_checkpoint(request.model);
  prepared.plan = plan_structured(*prepared.checkpoint, recipe, registry, options, plan_options(request));
  if (request.strict) {
    auto& problems = prepared.plan.problems;
    auto& warnings = prepared.plan.warnings;
    problems.insert(problems.end(), warnings.begin(), warnings.end());
    warnings.clear();
  }
  return prepared;
}

ErrorCode problem_code(const StructuredPlan& plan) {
  const bool unreadable = plan.input_error != nullptr && plan.problems.size() == 1;
  return unreadable ? plan.input_error->code() : ErrorCode::recipe;
}

std::string remarks(const StructuredPlan& plan) {
  std::string text;
  for (const std::string& problem : plan.problems) text += "problem: " + printable(problem) + "\n";
  for (const std::string& warning : plan.warnings) text += "warning: " + printable(warning) + "\n";
  return text;
}

Json axes_json(const StructuredPlan& plan) {
  Json axes = Json::array();
  for (const StructuredAxis& axis : plan.axes) {
    axes.push_back({{"name", axis.name},
                    {"key", axis.key},
                    {"before", axis.before},
                    {"after", axis.after},
                    {"divisor", axis.divisor}});
  }
  return axes;
}

Json plan_json(const StructuredPlan& plan) {
  Json tensors = Json::array();
  for (const StructuredTensor& tensor : plan.tensors) {
    tensors.push_back(
        {{"name", tensor.name}, {"count", tensor.count}, {"before", tensor.before}, {"after", tensor.after}});
  }
  Json json = {{"recipe", plan.recipe.name},
               {"family", plan.family},
               {"axes", axes_json(plan)},
               {"tensors", std::move(tensors)},
               {"parameters_before", plan.parameters_before},
               {"parameters_after", plan.parameters_after},
               {"bytes_before", plan.bytes_before},
               {"bytes_after", plan.bytes_after},
               {"sizes_exact", plan.sizes_exact},
               {"output_bytes", plan.output_bytes},
               {"peak_memory", plan.peak_memory},
               {"identity", plan.identity},
               {"problems", plan.problems},
               {"warnings", plan.warnings}};
  if (plan.calibration) {
    json["calibration"] = {{"source", plan.calibration->source},
                           {"sequences", plan.calibration->sequences},
                           {"tokens", plan.calibration->tokens},
                           {"second_stream", plan.calibration->second_stream},
                           {"disk_bytes", plan.calibration->disk_bytes}};
  }
  return json;
}

std::string plan_text(const StructuredPlan& plan) {
  if (plan.parameters_after == 0) return {};  // a problem came before anything had a size
  Table axes({{"axis"}, {"config.json"}, {"before", Table::Align::right}, {"after", Table::Align::right}});
  for (const StructuredAxis& axis : plan.axes) {
    axes.add({axis.name, axis.key, std::to_string(axis.before), std::to_string(axis.after)});
  }
  Table tensors({{"tensors"}, {"count", Table::Align::right}, {"before"}, {"after"}});
  for (const StructuredTensor& tensor : plan.tensors) {
    tensors.add({tensor.name, std::to_string(tensor.count), to_string(tensor.before), to_string(tensor.after)});
  }
  std::vector<std::pair<std::string, std::string>> fields = {
      {"parameters",
       fmt::format("{} -> {} ({} of them)", human_count(plan.parameters_before), human_count(plan.parameters_after),
                   percent(plan.parameters_after, plan.parameters_before))},
      {"size", fmt::format("{} -> {}, all files {}", human_bytes(plan.bytes_before), human_bytes(plan.bytes_after),
                           human_bytes(plan.output_bytes))},
      {"peak memory", human_bytes(plan.peak_memory)}};
  if (plan.calibration) {
    if (plan.calibration->disk_bytes > 0) {
      fields.emplace_back("temporary files", "up to " + human_bytes(plan.calibration->disk_bytes));
    }
    fields.emplace_back("calibration",
                        fmt::format("{}: {} of {} tokens", plan.calibration->source,
                                    counted(plan.calibration->sequences, "sequence"), plan.calibration->tokens));
  }
  fields.emplace_back("restart", "none: a run that is stopped begins again");
  std::string text = axes.text();
  if (tensors.size() > 0) text += "\n" + tensors.text();
  return text + "\n" + field_list(fields);
}

[[noreturn]] void throw_problems(const StructuredPlan& plan) {
  if (const ErrorCode code = problem_code(plan); code != ErrorCode::recipe) {
    throw Error(code, plan.problems.front(), {}, plan.input_error->kind());
  }
  std::string message =
      fmt::format("the recipe cannot run on this model ({})", counted(plan.problems.size(), "problem"));
  for (const std::string& problem : plan.problems) message += "\n  - " + problem;
  throw Error(ErrorCode::recipe, message, "quant plan shows what it would do", "PlanProblems");
}

RunReport execute(const StructuredPlan& plan, const StructuredRunRequest& request) {
  ProgressLine line("pruning", request.quiet);
  RunOptions run;
  run.output = request.output;
  run.resume = request.resume;
  run.overwrite_partial = request.overwrite_partial;
  run.stop = watch_interrupts();
  if (line.enabled()) {
    run.progress = [&line](const RunProgress& progress) {
      ProgressState state;
      state.bytes = false;
      state.done = static_cast<std::uint64_t>(progress.operations_done);
      state.total = static_cast<std::uint64_t>(progress.operations_total);
      state.seconds = progress.seconds;
      state.unit = "passes";
      state.current = fmt::format("block {} of {}: {}", progress.block, progress.blocks, progress.current);
      line.update(state);
    };
  }
  return run_structured(plan, run);
}

void print_summary(const StructuredPlan& plan, const StructuredRunRequest& request, const RunReport& report,
                   const RunEvaluation* evaluation, bool as_json) {
  const std::filesystem::path output = request.output;
  const auto outputs = output_summary(report);
  if (as_json) {
    Json json = {{"output", request.output},
                 {"recipe", report.recipe_name},
                 {"axes", axes_json(plan)},
                 {"layers", report.layers.size()},
                 {"parameters_before", plan.parameters_before},
                 {"parameters_after", report.parameters},
                 {"bytes_before", report.bytes_before},
                 {"bytes_after", report.bytes_after},
                 {"output_error", outputs ? Json(outputs->relative_error) : Json()},
                 {"fallbacks", fallback_summary(report).layers},
                 {"seconds", report.seconds},
                 {"peak_memory", report.peak_memory_measured},
                 {"peak_resident_memory", report.peak_resident_memory},
                 {"warnings", report.warnings},
                 {"structure", (output / "structure.json").string()},
                 {"report", (output / "report.json").string()},
                 {"report_html", (output / "report.html").string()}};
    if (evaluation != nullptr) json["evaluation"] = eval_json(evaluation->details());
    return write_stdout(json_text(json));
  }
  if (request.quiet) return;
  std::vector<std::pair<std::string, std::string>> fields = {{"output", request.output}};
  for (const StructuredAxis& axis : plan.axes) {
    fields.emplace_back(axis.name, fmt::format("{} -> {}", axis.before, axis.after));
  }
  fields.emplace_back("parameters",
                      fmt::format("{} -> {} ({} of them)", human_count(plan.parameters_before),
                                  human_count(report.parameters), percent(report.parameters, plan.parameters_before)));
  fields.emplace_back("size",
                      fmt::format("{} -> {}", human_bytes(report.bytes_before), human_bytes(report.bytes_after)));
  if (outputs) {
    fields.emplace_back("output error", fmt::format("{:.3g} on the average of {}", outputs->relative_error,
                                                    counted(outputs->layers, "fitted linear")));
  }
  fields.emplace_back("time",
                      fmt::format("{}, peak memory {} ({} resident)", human_seconds(report.seconds),
                                  human_bytes(report.peak_memory_measured), human_bytes(report.peak_resident_memory)));
  fields.emplace_back("report", (output / "report.html").string());
  std::string text = field_list(fields);
  if (report.evaluation) text += "\n" + field_list(evaluation_fields(*report.evaluation));
  write_stdout(text);
}

}  // namespace

std::optional<StructuredOutline> outline_structured_recipe(const PlanRequest& request, bool mixed,
                                                           const Registry& registry) {
  const auto recipe = structured_recipe(request, registry);
  if (!recipe) return std::nullopt;
  const Prepared prepared = prepare(request, *recipe, registry, mixed);
  return StructuredOutline{prepared.plan.problems, prepared.plan.warnings, prepared.plan.peak_memory};
}

std::optional<int> plan_structured_recipe(const PlanRequest& request, Session& session) {
  const auto recipe = structured_recipe(request, session.registry);
  if (!recipe) return std::nullopt;
  const Prepared prepared = prepare(request, *recipe, session.registry, false);
  write_stdout(session.json ? json_text(plan_json(prepared.plan)) : plan_text(prepared.plan));
  std::fputs(remarks(prepared.plan).c_str(), stderr);
  return prepared.plan.problems.empty() ? kExitOk : exit_code(problem_code(prepared.plan));
}

std::optional<int> run_structured_recipe(const PlanRequest& request, const StructuredRunRequest& run,
                                         Session& session) {
  const auto recipe = structured_recipe(request, session.registry);
  if (!recipe) return std::nullopt;
  PlanRequest complete = request;
  complete.evaluation = run.evaluation.text;
  const Prepared prepared = prepare(complete, *recipe, session.registry, run.mixed);
  if (!prepared.plan.problems.empty()) throw_problems(prepared.plan);
  std::optional<RunEvaluation> evaluation;
  if (!run.evaluation.text.empty()) {
    evaluation.emplace(run.evaluation, complete, run.output, run.quiet);
    evaluation->prepare(session.registry);
  }
  if (!run.quiet) std::fputs(remarks(prepared.plan).c_str(), stderr);
  RunReport report = execute(prepared.plan, run);
  if (evaluation) {
    report.evaluation = evaluation->measure(session.registry);
    write_report_files(report, run.output);
  }
  print_summary(prepared.plan, run, report, evaluation ? &*evaluation : nullptr, session.json);
  return kExitOk;
}

}  // namespace quant::cli
