// quant run: compresses a checkpoint.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "errors.h"
#include "interrupt.h"
#include "metrics_text.h"
#include "mixed_plan.h"
#include "plan_request.h"
#include "plan_text.h"
#include "progress.h"
#include "quant/pipeline.h"
#include "quant/report.h"
#include "report_fields.h"
#include "report_file.h"
#include "run_command.h"
#include "run_evaluation.h"
#include "sparsity_profiles.h"
#include "structured.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

std::string shell_word(const std::string& word) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("-_./=:,+@").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string resume_command(const Session& session) {
  std::string text = "quant";
  for (const std::string& argument : session.arguments) {
    if (argument != "--resume" && argument != "--overwrite-partial") text += " " + shell_word(argument);
  }
  return text + " --resume";
}

const OutputErrors* output_of(const LayerReport& layer) {
  return layer.calibration && layer.calibration->output ? &*layer.calibration->output : nullptr;
}

// What is left to do depends on operations rather than on the bytes of weights.
ProgressState calibration_progress(const RunProgress& progress) {
  const auto units = [](double operations) { return static_cast<std::uint64_t>(operations); };
  ProgressState state;
  state.bytes = false;
  state.done = units(progress.operations_done);
  state.total = units(progress.operations_total);
  state.resumed = units(progress.operations_resumed);
  state.seconds = progress.seconds;
  state.current = progress.block > 0
                      ? fmt::format("block {} of {}: {}", progress.block, progress.blocks, progress.current)
                      : progress.current;
  state.unit = "operations";
  return state;
}

RunReport execute(const RunCommand& options, const Session& session, const Plan& plan) {
  ProgressLine line("quantizing", options.quiet);
  RunOptions run;
  run.output = options.output;
  run.resume = options.resume;
  run.overwrite_partial = options.overwrite_partial;
  run.stop = watch_interrupts();
  if (line.enabled()) {
    run.progress = [&](const RunProgress& progress) {
      if (progress.operations_total > 0) {
        line.update(calibration_progress(progress));
        return;
      }
      line.update({progress.bytes_done, progress.bytes_total, progress.bytes_resumed, progress.seconds,
                   progress.current, true});
    };
  }
  try {
    return run_plan(plan, run);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::interrupted) throw;
    throw Error(ErrorCode::interrupted, error.what(), fmt::format("continue with: {}", resume_command(session)),
                error.kind());
  }
}

constexpr std::size_t kWorst = 5;

Json worst_json(const RunReport& report) {
  Json worst = Json::array();
  for (const std::size_t i : layers_by_error(report, kWorst)) {
    const LayerReport& layer = report.layers[i];
    worst.push_back({{"module", layer.module}, {"scheme", layer.scheme}, {"error", metrics_json(layer.sums)}});
    if (const OutputErrors* output = output_of(layer)) {
      const WeightMetrics metrics = summarize(*output);
      worst.back()["output_error"] = {{"relative_error", metrics.nmse}, {"sqnr_db", metrics.sqnr_db}};
    }
  }
  return worst;
}

Json output_json(const RunReport& report) {
  const auto outputs = output_summary(report);
  if (!outputs) return {};
  return {{"layers", outputs->layers},
          {"relative_error", outputs->relative_error},
          {"sqnr_db", outputs->sqnr_db},
          {"largest", outputs->largest}};
}

Json summary_json(const RunCommand& options, const RunReport& report) {
  const bool any = !report.layers.empty();
  const std::filesystem::path output = options.output;
  return {{"output", options.output},
          {"recipe", report.recipe_name},
          {"layout", report.layout},
          {"layers", report.layers.size()},
          {"bytes_before", report.bytes_before},
          {"bytes_after", report.bytes_after},
          {"bits_per_weight", any ? Json(report.bits_per_weight) : Json()},
          {"model_bits_per_parameter", report.model_bits_per_parameter},
          {"error", any ? metrics_json(total_errors(report)) : Json()},
          {"output_error", output_json(report)},
          {"fallbacks", fallback_summary(report).layers},
          {"worst", worst_json(report)},
          {"seconds", report.seconds},
          {"peak_memory", report.peak_memory_measured},
          {"peak_resident_memory", report.peak_resident_memory},
          {"warnings", report.warnings},
          {"report", (output / "report.json").string()},
          {"report_html", (output / "report.html").string()}};
}

std::string bits_text(const RunReport& report) {
  const std::string all = fmt::format("{:.3f} per parameter", report.model_bits_per_parameter);
  return report.layers.empty() ? all : fmt::format("{:.3f} per quantized weight, {}", report.bits_per_weight, all);
}

std::string worst_text(const RunReport& report) {
  const auto worst = layers_by_error(report, kWorst);
  if (worst.empty()) return {};
  const bool outputs = output_summary(report).has_value();
  std::vector<Table::Column> columns = {{"worst layers"}, {"scheme"}};
  if (outputs) columns.push_back({"output error", Table::Align::right});
  columns.push_back({"SQNR", Table::Align::right});
  columns.push_back({"NMSE", Table::Align::right});
  Table table(std::move(columns));
  for (const std::size_t i : worst) {
    const LayerReport& layer = report.layers[i];
    const WeightMetrics metrics = summarize(layer.sums);
    std::vector<std::string> row = {layer.module, layer.scheme};
    const OutputErrors* output = output_of(layer);
    if (outputs) row.push_back(output == nullptr ? "not measured" : nmse_text(summarize(*output).nmse));
    row.push_back(sqnr_text(metrics.sqnr_db));
    row.push_back(nmse_text(metrics.nmse));
    table.add(row);
  }
  return "\n" + table.text();
}

std::string summary_text(const RunCommand& options, const RunReport& report) {
  std::vector<std::pair<std::string, std::string>> fields = {
      {"output", options.output},
      {"size", fmt::format("{} -> {} ({} of it)", human_bytes(report.bytes_before), human_bytes(report.bytes_after),
                           percent(report.bytes_after, report.bytes_before))},
      {"bits", bits_text(report)}};
  const auto errors = error_fields(report);
  fields.insert(fields.end(), errors.begin(), errors.end());
  fields.emplace_back("time",
                      fmt::format("{}, peak memory {} ({} resident)", human_seconds(report.seconds),
                                  human_bytes(report.peak_memory_measured), human_bytes(report.peak_resident_memory)));
  fields.emplace_back("report", (std::filesystem::path(options.output) / "report.html").string());
  return field_list(fields) + worst_text(report);
}

// Before the model is opened, which may take a while.
void require_output(const RunCommand& options) {
  if (!options.output.empty() || options.request.model.empty()) return;
  throw Error(ErrorCode::usage, "quant run needs --output DIR: where to write the compressed checkpoint",
              fmt::format("as in: quant run {} --model {} --output tiny-quantized", options.request.recipe,
                          options.request.model),
              "NoOutput");
}

constexpr const char* kSensitivityName = "sensitivity.json";

// Kept beside the output until that is complete, so that --resume does not measure again.
std::filesystem::path kept_sensitivity(const RunCommand& options) { return options.output + ".sensitivity.json"; }

SensitivityReport sensitivity_of(const RunCommand& options, const Session& session, const PreparedPlan& base) {
  if (!options.mixed.report.empty()) return read_sensitivity(options.mixed.report);
  const std::filesystem::path kept = kept_sensitivity(options);
  for (const auto& file : {kept, std::filesystem::path(options.output) / kSensitivityName}) {
    if (options.resume && std::filesystem::exists(file)) return read_sensitivity(file);
  }
  make_parent(kept);
  SensitivityReport report = measure_sensitivity(options.request, options.mixed, base, session.registry, options.quiet);
  write_file(kept, sensitivity_json(report));
  return report;
}

// In the place of the recipe's own schemes, those that meet the target.
void mix_schemes(const RunCommand& options, const Session& session, PreparedPlan& prepared) {
  const SensitivityReport report = sensitivity_of(options, session, prepared);
  MixedPlan mixed = make_mixed_plan(prepared, options.mixed, report, session.registry);
  if (!options.quiet) std::fputs((allocation_text(report, mixed.allocation) + "\n").c_str(), stderr);
  prepared.plan = std::move(mixed.plan);
}

void keep_sensitivity(const RunCommand& options) {
  const std::filesystem::path kept = kept_sensitivity(options);
  if (!std::filesystem::exists(kept)) return;
  rename_file(kept, std::filesystem::path(options.output) / kSensitivityName);
}

// The report of an output that is complete already and lacks its evaluation: the last run ended within it.
std::optional<RunReport> finished_report(const RunCommand& options, const Plan& plan) {
  const std::filesystem::path output = options.output;
  if (!options.resume || options.evaluation.text.empty() || !std::filesystem::exists(output / "report.json")) {
    return std::nullopt;
  }
  RunReport report = load_report(output / "report.json", true);
  if (report.plan_identity == plan.identity) return report;
  throw Error(
      ErrorCode::io,
      fmt::format("{} was made by another recipe, other options, another version or with other data", options.output),
      fmt::format("evaluate it as it is with: quant eval {} --base {} --text {}", shell_word(options.output),
                  shell_word(options.request.model), shell_word(options.evaluation.text)),
      "OtherRun");
}

// The checkpoint is complete: whatever happens here leaves it so.
void evaluate_output(const RunCommand& options, const Session& session, RunEvaluation& evaluation, RunReport& report) {
  try {
    report.evaluation = evaluation.measure(session.registry);
    write_report_files(report, options.output);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{} is complete, but not evaluated: {}", options.output, error.what()),
                fmt::format("evaluate it with: {}", resume_command(session)), error.kind());
  }
}

// Those of the plan were said before it ran.
void say_new_warnings(const Plan& plan, const RunReport& report) {
  for (const std::string& warning : report.warnings) {
    if (std::find(plan.warnings.begin(), plan.warnings.end(), warning) != plan.warnings.end()) continue;
    std::fputs(("warning: " + printable(warning) + "\n").c_str(), stderr);
  }
}

void print_summary(const RunCommand& options, const Session& session, const RunReport& report,
                   const RunEvaluation* evaluation) {
  if (session.json) {
    Json json = summary_json(options, report);
    if (evaluation != nullptr) json["evaluation"] = eval_json(evaluation->details());
    write_stdout(json_text(json));
  } else if (!options.quiet) {
    std::string text = summary_text(options, report);
    if (report.evaluation) text += "\n" + field_list(evaluation_fields(*report.evaluation));
    write_stdout(text);
  }
}

int run_command(const RunCommand& options, Session& session) {
  require_output(options);
  check_mixed(options.mixed);
  check_evaluation_options(options.evaluation);
  const StructuredRunRequest structured = {options.evaluation,        options.output, options.resume,
                                           options.overwrite_partial, options.quiet,  options.mixed.wanted()};
  if (const auto code = run_structured_recipe(options.request, structured, session)) return *code;
  PlanRequest request = options.request;
  request.evaluation = options.evaluation.text;
  PreparedPlan prepared = prepare_plan(request, session.registry, "run");
  if (!prepared.plan.problems.empty()) throw_problems(prepared.plan);
  std::optional<RunEvaluation> evaluation;
  if (!options.evaluation.text.empty()) {
    evaluation.emplace(options.evaluation, options.request, options.output, options.quiet);
    evaluation->prepare(session.registry);
  }
  if (has_sparsity_profiles(prepared.plan)) {
    resolve_sparsity_profiles(request, session.registry, options.quiet, prepared);
    if (!prepared.plan.problems.empty()) throw_problems(prepared.plan);
  }
  if (options.mixed.wanted()) mix_schemes(options, session, prepared);
  if (!prepared.plan.problems.empty()) throw_problems(prepared.plan);
  if (evaluation) RunEvaluation::check_schemes(prepared.plan);
  if (!options.quiet) std::fputs(plan_remarks(prepared.plan).c_str(), stderr);
  std::optional<RunReport> finished = finished_report(options, prepared.plan);
  RunReport report = finished ? std::move(*finished) : execute(options, session, prepared.plan);
  if (!options.quiet) say_new_warnings(prepared.plan, report);
  if (options.mixed.wanted()) keep_sensitivity(options);
  if (evaluation) evaluate_output(options, session, *evaluation, report);
  print_summary(options, session, report, evaluation ? &*evaluation : nullptr);
  return kExitOk;
}

}  // namespace

void add_run_options(CLI::App& command, RunCommand& options) {
  add_plan_options(command, options.request);
  command.add_option("--output", options.output, "Directory to make; it must not exist")->type_name("DIR");
  CLI::Option* resume = command.add_flag("--resume", options.resume, "Continue an interrupted run from DIR.partial");
  command.add_flag("--overwrite-partial", options.overwrite_partial, "Discard DIR.partial and start again")
      ->excludes(resume);
  command.add_flag("--quiet", options.quiet, "No progress, no warnings and no summary");
  command
      .add_flag("--block-errors", options.request.block_errors,
                "Measure the error of each decoder layer's output: the unquantized model runs beside, a second pass")
      ->group("Calibration");
  command
      .add_option("--save-statistics", options.request.save_statistics,
                  "Keep the statistics of the pass, for --statistics of another run")
      ->type_name("FILE")
      ->group("Calibration");
  add_evaluation_options(command, options.evaluation);
  const std::string group = "Mixed precision";
  add_target_options(command, options.mixed, group);
  command
      .add_option("--sensitivity", options.mixed.report, "Report of 'quant sensitivity' to use; else it is measured")
      ->type_name("FILE")
      ->group(group);
  add_measure_options(command, options.mixed, group);
  command
      .add_option("--sensitivity-samples", options.mixed.samples,
                  "Calibration sequences to measure on, spread over the file; 0: all")
      ->type_name("N")
      ->default_str(std::to_string(kDefaultSamples))
      ->group(group);
}

void add_run(CLI::App& program, Session& session) {
  const auto options = std::make_shared<RunCommand>();
  CLI::App* command =
      add_command(program, session, "run", "Compress a model with a recipe and report every layer's error",
                  "quant run w4a16 --model examples/tiny-llama-novels --output tiny-w4a16", options, run_command);
  add_run_options(*command, *options);
}

RunCommand parse_run(const std::vector<std::string>& arguments) {
  CLI::App program("quant run");
  RunCommand options;
  add_run_options(program, options);
  try {
    program.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::usage, error.what());
  }
  require_output(options);
  check_mixed(options.mixed);
  check_evaluation_options(options.evaluation);
  return options;
}

}  // namespace quant::cli
