// quant sensitivity: which linears suffer most from quantization.
#include <fmt/format.h>

#include "errors.h"
#include "mixed_plan.h"
#include "output.h"
#include "plan_text.h"
#include "quant/error.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct SensitivityCommand {
  PlanRequest request;
  MixedRequest mixed;
  std::string output;
  std::string recipe_output;
  bool quiet = false;
};

void check_command(const SensitivityCommand& command) {
  if (!command.mixed.target_bits.empty()) check_mixed(command.mixed);
  if (command.recipe_output.empty() || command.mixed.wanted()) return;
  throw Error(ErrorCode::usage, "--write-recipe needs a target that the recipe is to meet",
              "add --target-bits 4.25 or --target-size 2.1G", "NoTarget");
}

/// "W3G128 3.1e-04" columns; a dash where a linear cannot have the scheme.
std::string loss_cell(const CandidateLoss& loss) { return loss.possible ? fmt::format("{:.3e}", loss.loss) : "-"; }

std::string bits_of(const SensitivityReport& report, std::size_t candidate) {
  std::uint64_t bytes = 0;
  std::uint64_t weights = 0;
  for (const LinearSensitivity& linear : report.linears) {
    if (!linear.losses[candidate].possible) continue;
    bytes += linear.losses[candidate].bytes;
    weights += linear.rows * linear.cols;
  }
  if (weights == 0) return "-";
  return fmt::format("{:.3f}", 8.0 * static_cast<double>(bytes) / static_cast<double>(weights));
}

double total_loss(const SensitivityReport& report, std::size_t candidate) {
  double total = 0;
  for (const LinearSensitivity& linear : report.linears) total += linear.losses[candidate].loss;
  return total;
}

std::string linears_table(const SensitivityReport& report, const Allocation* allocation) {
  std::vector<Table::Column> columns{{"linear"}, {"set", Table::Align::right}};
  for (const std::string& name : report.candidates) columns.push_back({name, Table::Align::right});
  if (allocation != nullptr) columns.push_back({"chosen"});
  Table table(columns);
  const auto add = [&](std::vector<std::string> cells, const auto& cell, const std::string& chosen) {
    for (std::size_t c = 0; c < report.candidates.size(); ++c) cells.push_back(cell(c));
    if (allocation != nullptr) cells.push_back(chosen);
    table.add(cells);
  };
  for (std::size_t i = 0; i < report.linears.size(); ++i) {
    const LinearSensitivity& linear = report.linears[i];
    add(
        {linear.module, std::to_string(linear.set)}, [&](std::size_t c) { return loss_cell(linear.losses[c]); },
        allocation == nullptr ? "" : report.candidates[allocation->choice[i]]);
  }
  add(
      {"sum", ""}, [&](std::size_t c) { return fmt::format("{:.3e}", total_loss(report, c)); },
      allocation == nullptr ? "" : fmt::format("{:.3e}", allocation->loss));
  add(
      {"bits per weight", ""}, [&](std::size_t c) { return bits_of(report, c); },
      allocation == nullptr ? "" : fmt::format("{:.3f}", allocation->bits_per_weight()));
  return table.text();
}

const char* loss_name(SensitivityMeasure measure) {
  return measure == SensitivityMeasure::output
             ? "squared relative error of the linear's output"
             : "KL(original || model with this linear quantized), nats per prediction";
}

std::string report_text(const SensitivityReport& report, const Allocation* allocation) {
  std::vector<std::pair<std::string, std::string>> fields{
      {"model", report.model},
      {"recipe", fmt::format("{}, layout {}", report.recipe, report.layout)},
      {"data", fmt::format("{} of {}, {} tokens", counted(report.sequences, "sequence"), report.source, report.tokens)},
      {"loss", fmt::format("{} ({})", loss_name(report.measure), to_string(report.measure))},
      {"time", human_seconds(report.seconds)}};
  if (allocation != nullptr) fields.emplace_back("allocation", allocation_text(report, *allocation));
  return field_list(fields) + "\n" + linears_table(report, allocation);
}

Json report_json(const SensitivityReport& report, const MixedPlan* mixed) {
  Json json = Json::parse(sensitivity_json(report));
  if (mixed == nullptr) return json;
  Json schemes = Json::object();
  for (std::size_t i = 0; i < report.linears.size(); ++i) {
    schemes[report.linears[i].module] = report.candidates[mixed->allocation.choice[i]];
  }
  json["allocation"] = {{"bytes", mixed->allocation.bytes},
                        {"bits_per_weight", mixed->allocation.bits_per_weight()},
                        {"loss", mixed->allocation.loss},
                        {"output_bytes", mixed->plan.output_bytes},
                        {"loading_bytes", mixed->plan.loading_bytes},
                        {"schemes", std::move(schemes)}};
  return json;
}

int sensitivity_command(const SensitivityCommand& command, Session& session) {
  check_command(command);
  const PreparedPlan base = prepare_plan(command.request, session.registry, "sensitivity");
  if (!base.plan.problems.empty()) throw_problems(base.plan);
  // What cannot be written is better known before hours of measuring.
  for (const std::string& file : {command.output, command.recipe_output}) make_parent(file);
  const SensitivityReport report =
      measure_sensitivity(command.request, command.mixed, base, session.registry, command.quiet);
  if (!command.output.empty()) write_file(command.output, sensitivity_json(report));
  std::optional<MixedPlan> mixed;
  if (command.mixed.wanted()) {
    mixed = make_mixed_plan(base, command.mixed, report, session.registry);
    if (!mixed->plan.problems.empty()) throw_problems(mixed->plan);
    if (!command.recipe_output.empty()) write_file(command.recipe_output, mixed->recipe.text);
  }
  write_stdout(session.json ? json_text(report_json(report, mixed ? &*mixed : nullptr))
                            : report_text(report, mixed ? &mixed->allocation : nullptr));
  return kExitOk;
}

void add_data_options(CLI::App& command, SensitivityCommand& options) {
  PlanRequest& request = options.request;
  command
      .add_option("--calibration", request.calibration,
                  "Text that the model is run on: .txt, .jsonl, or token ids in .npy or .h5")
      ->required()
      ->type_name("FILE");
  command.add_option("--samples", options.mixed.samples, "Sequences to measure on, spread over the file; 0: all")
      ->type_name("N")
      ->default_str(std::to_string(kDefaultSamples));
  command.add_option("--seq-len", request.seq_len, "Tokens per sequence")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(2, 10'000'000));
  add_chat_template_option(command, request.chat_template);
}

}  // namespace

void add_sensitivity(CLI::App& program, Session& session) {
  const auto options = std::make_shared<SensitivityCommand>();
  options->request.recipe = "w4a16";
  options->request.seq_len = 256;
  CLI::App* command = add_command(program, session, "sensitivity", "Measure what quantizing each linear alone costs",
                                  "quant sensitivity examples/tiny-llama-novels \\\n"
                                  "      --calibration examples/tiny-llama-novels/calibration.txt --target-bits 3.5",
                                  options, sensitivity_command);
  PlanRequest& request = options->request;
  command->add_option("MODEL", request.model, "Checkpoint directory, .safetensors or .h5 file")->required();
  add_data_options(*command, *options);
  command->add_option("--recipe", request.recipe, "Recipe whose linears are measured and whose schemes are varied")
      ->type_name("RECIPE")
      ->capture_default_str();
  command->add_option("--set", request.set, "Value of a variable of the recipe; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command->add_option("--layout", request.layout, "Layout that sizes are counted in")
      ->type_name("NAME")
      ->capture_default_str();
  const std::string group = command->get_option("--recipe")->get_group();  // no group of their own here
  add_measure_options(*command, options->mixed, group);
  add_target_options(*command, options->mixed, group);
  command->add_option("--output", options->output, "Report to write, for 'quant run --sensitivity'")->type_name("FILE");
  command->add_option("--write-recipe", options->recipe_output, "Recipe to write, for 'quant run'")->type_name("FILE");
  command->add_option("--product", request.product, "Operands of matrix products: f32 (default) or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE");
  command->add_option("--memory", request.memory, "Memory that may be used, as in 8G; 3/4 of what is free by default")
      ->type_name("SIZE");
  command->add_flag("--quiet", options->quiet, "No progress");
  add_threads_option(*command, request.threads);
}

}  // namespace quant::cli
