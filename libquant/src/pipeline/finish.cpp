#include "pipeline/finish.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "output/files.h"
#include "output/model_files.h"
#include "plan/pruning.h"
#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/version.h"

namespace quant {
namespace {

std::optional<SparsityRecord> sparsity_report(const Plan& plan, const PlannedLinear& linear, std::uint64_t violations) {
  if (linear.pruning.empty()) return std::nullopt;
  SparsityRecord record;
  for (const PlannedPruning& pruning : linear.pruning) {
    const bool first = record.modifiers.empty();
    record.modifiers += (first ? "" : ", ") + plan.recipe.modifiers[pruning.modifier].type;
    record.pattern += (first ? "" : ", ") + describe(pruning.pattern);
  }
  const SparsityPattern pattern = final_pattern(linear);
  record.keep = pattern.keep;
  record.of = pattern.of;
  record.violations = violations;
  return record;
}

LayerReport layer_report(const Plan& plan, const PlannedLinear& linear, ItemResult&& result) {
  const RecipeModifier& modifier = plan.recipe.modifiers[linear.modifier];
  const Scheme& scheme = plan.groups[linear.scheme].scheme;
  LayerReport layer;
  layer.module = linear.shape.module;
  layer.shape = linear.weight->shape;
  layer.dtype = dtype_name(linear.shape.dtype);
  layer.rule = linear.rule;
  layer.modifier = modifier.type;
  layer.algorithm = plan.registry->modifier(modifier.type)->name;
  layer.scheme = describe(*scheme.weights);
  layer.format = layout_for(plan, linear).format_of(scheme);
  layer.bits_per_weight = linear.bits_per_weight;
  layer.bytes_before = linear.weight->bytes;
  layer.bytes_after = linear.stored_bytes;
  layer.sums = result.sums;
  layer.scale_min = result.scale_min;
  layer.scale_max = result.scale_max;
  layer.seconds = result.seconds;
  layer.row_nmse = std::move(result.row_nmse);
  layer.group_nmse = std::move(result.group_nmse);
  layer.notes = std::move(result.notes);
  if (linear.sensitivity != nullptr) {
    const Checkpoint& file = *plan.options.sensitivities;
    // Without its folder: what lies elsewhere on another machine is the same data.
    layer.notes.push_back("errors weighted by " + file.files()[linear.sensitivity->file].path.filename().string());
  }
  if (layer.sums.count > 0 && layer.sums.noise == 0) layer.notes.emplace_back("lossless: every weight is kept exactly");
  layer.calibration = std::move(result.calibration);
  layer.sparsity = sparsity_report(plan, linear, result.violations);
  if (layer.sparsity) layer.scheme += ", " + layer.sparsity->pattern + " sparse";
  return layer;
}

// An amount that the system gives of this process, in bytes; 0 if it does not.
std::uint64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(key)) return std::strtoull(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return 0;
}

CalibrationReport calibration_report(const CalibrationPlan& plan, bool unquantized_inputs) {
  CalibrationReport report;
  // Without its folder: what lies elsewhere on another machine is the same data.
  report.source = std::filesystem::path(plan.source).filename().string();
  report.hash = plan.hash;
  report.sequences = plan.sequences;
  report.tokens = plan.tokens;
  report.longest = plan.longest;
  report.product = plan.imported ? "none" : plan.product == ProductType::bf16 ? "bf16" : "f32";
  report.unquantized_inputs = unquantized_inputs && !plan.imported;
  if (plan.imported) report.statistics = StatisticsSource{plan.data, plan.data_hash, plan.statistics_tool};
  return report;
}

// Files that the output has of its own; one of the same name beside the model is not carried along.
bool is_own_file(const Plan& plan, const std::filesystem::path& relative) {
  const std::string name = relative.string();
  return name == "config.json" || name == "recipe.yaml" || name == "report.json" || name == "report.html" ||
         name == "report.h5" || name == "quantize_config.json" || name == "quant_config.json" ||
         name == plan.shards.front().file || name.ends_with(".index.json");
}

void copy_companions(const Plan& plan, const std::filesystem::path& directory) {
  for (const std::filesystem::path& source : plan.checkpoint->companions()) {
    const auto name = companion_name(*plan.checkpoint, source);
    if (is_own_file(plan, name)) continue;
    const auto parent = (directory / name).parent_path();
    std::error_code failed;
    std::filesystem::create_directories(parent, failed);
    if (failed) throw_io_error("cannot create", parent, failed.value());
    copy_file_atomically(source, directory / name);
    if (parent != directory) sync_path(parent);
  }
}

}  // namespace

RunReport assemble_report(const Plan& plan, std::map<ItemKey, ItemResult>&& results) {
  RunReport report;
  report.tool_version = version();
  report.model = plan.checkpoint->location().string();
  if (!plan.checkpoint->config().architectures.empty())
    report.architecture = plan.checkpoint->config().architectures.front();
  report.recipe_name = plan.recipe.name;
  report.recipe_text = plan.recipe.text;
  report.plan_identity = plan.identity;
  report.layout = plan.options.layout;
  report.peak_memory_planned = plan.peak_memory;
  report.bytes_before = plan.bytes_before;
  report.bytes_after = plan.bytes_after;
  report.bits_per_weight = plan.bits_per_weight;
  report.model_bits_per_parameter = plan.model_bits_per_parameter;
  report.warnings = plan.warnings;
  if (plan.calibration)
    report.calibration = calibration_report(*plan.calibration, plan.options.calibration.unquantized_inputs);
  for (const TensorInfo& tensor : plan.checkpoint->tensors()) report.parameters += element_count(tensor.shape);

  std::map<std::size_t, ItemResult*> of_linear;
  for (auto& [key, result] : results) {
    const PlannedItem& item = plan.shards[key.first].items[key.second];
    if (item.quantized) of_linear[item.index] = &result;
  }
  for (const auto& [index, result] : of_linear) {
    report.layers.push_back(layer_report(plan, plan.linears[index], std::move(*result)));
  }
  const FallbackSummary fallbacks = fallback_summary(report);
  if (fallbacks.layers > 0) {
    report.warnings.push_back(fallbacks.sentence +
                              (fallbacks.starved > 0 ? "; more or other text may reach them" : ""));
  }
  for (const PlannedCopy& copy : plan.copies) {
    if (copy.tensor == nullptr) continue;  // a tied head has no tensor of its own
    report.skipped.push_back({copy.tensor->name, copy.tensor->shape, std::string(dtype_name(copy.tensor->dtype)),
                              copy.tensor->bytes, copy.reason});
  }
  return report;
}

void write_small_files(const Plan& plan, RunReport& report, const std::filesystem::path& directory) {
  copy_companions(plan, directory);
  if (!plan.config_json.empty()) write_file_atomically(directory / "config.json", plan.config_json);
  const bool described = std::any_of(plan.linears.begin(), plan.linears.end(),
                                     [&](const PlannedLinear& linear) { return is_described(plan, linear); });
  if (described) {
    for (const SideFile& file : plan.layout->side_files(plan.config_json)) {
      write_file_atomically(directory / file.name, file.text);
    }
  }
  if (!plan.index_json.empty()) {
    const std::string_view extension = plan.registry->container(plan.options.container)->extension();
    write_file_atomically(directory / index_file_name(extension), plan.index_json);
  }
  write_file_atomically(directory / "recipe.yaml", plan.recipe.text);
  report.peak_memory_measured = std::max(report.peak_memory_measured, anonymous_memory());
  report.peak_resident_memory = peak_resident_memory();
  write_report_files(report, directory);
}

std::uint64_t anonymous_memory() { return status_bytes("RssAnon:"); }
std::uint64_t peak_resident_memory() { return status_bytes("VmHWM:"); }

std::string describe_machine(int threads) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  std::string model = "unknown processor";
  while (std::getline(cpuinfo, line)) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      model = line.substr(colon + 2);
      break;
    }
  }
  return fmt::format("{}, {}, {} {}", model, kernels().isa, threads, threads == 1 ? "thread" : "threads");
}

std::string utc_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

}  // namespace quant
