#include "mixed_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>

#include "interrupt.h"
#include "machine_memory.h"
#include "progress.h"
#include "quant/data_files.h"
#include "quant/error.h"
#include "units.h"

namespace quant::cli {
namespace {

double parse_bits(const std::string& text) {
  double bits = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bits);
  if (error == std::errc() && end == text.data() + text.size() && bits > 0 && bits <= 16) return bits;
  throw Error(ErrorCode::usage, fmt::format("--target-bits: '{}' is no number of bits from 0 to 16", text),
              "as in --target-bits 4.25", "BadTarget");
}

/// The modifier whose schemes are varied.
std::size_t quantizing_modifier(const Plan& plan) {
  const bool prunes = std::any_of(plan.linears.begin(), plan.linears.end(),
                                  [](const PlannedLinear& linear) { return !linear.pruning.empty(); });
  if (prunes) {
    throw Error(ErrorCode::recipe,
                fmt::format("{} prunes: schemes cannot be shared out between linears that are pruned as well",
                            plan.recipe.name),
                "share zeros out instead, with sparsity_profile: error (docs/pruning.md)", "PrunedMixture");
  }
  std::vector<std::size_t> found;
  for (std::size_t m = 0; m < plan.recipe.modifiers.size(); ++m) {
    if (!plan.recipe.modifiers[m].schemes.empty()) found.push_back(m);
  }
  if (found.size() == 1) return found.front();
  throw Error(ErrorCode::recipe,
              fmt::format("{} has {} modifiers that quantize linears; schemes can be shared out within one only",
                          plan.recipe.name, found.size()),
              "put their schemes into the config_groups of one modifier", "SeveralQuantizers");
}

std::uint64_t bytes_of_linears(const Plan& plan) {
  std::uint64_t bytes = 0;
  for (const PlannedLinear& linear : plan.linears) bytes += linear.stored_bytes;
  return bytes;
}

TokenSequences read_samples(const PlanRequest& request, const MixedRequest& mixed, const Plan& plan) {
  if (request.calibration.empty() && !request.statistics.empty()) {
    throw Error(ErrorCode::usage,
                "sensitivity is measured on text, and a file of statistics holds none: schemes are shared out with "
                "--statistics by a report of sensitivity only",
                "give --sensitivity FILE, written by quant sensitivity", "NoCalibration");
  }
  if (request.calibration.empty()) {
    throw Error(ErrorCode::usage, "sensitivity is measured on text: give --calibration FILE",
                fmt::format("as in: --calibration {}/calibration.txt", request.model), "NoCalibration");
  }
  const std::filesystem::path file = request.calibration;
  std::optional<Tokenizer> tokenizer;
  if (!holds_token_ids(file)) tokenizer = Tokenizer::open(model_directory(plan.checkpoint->location()));
  CalibrationOptions options = plan.options.calibration.data;
  options.samples = 0;
  return spread_sequences(read_sequences(file, tokenizer ? &*tokenizer : nullptr, options),
                          mixed.samples.value_or(kDefaultSamples));
}

SensitivityOptions sensitivity_options(const PlanRequest& request, const MixedRequest& mixed) {
  SensitivityOptions options;
  options.measure = parse_measure(mixed.measure.empty() ? "kl" : mixed.measure);
  options.candidates = parse_candidates(mixed.schemes.empty() ? kDefaultCandidates : std::string_view(mixed.schemes));
  options.independent = mixed.independent;
  options.product = request.product == "bf16" ? ProductType::bf16 : ProductType::f32;
  options.threads = request.threads;
  options.memory = request.memory.empty() ? available_memory() / 4 * 3 : parse_size(request.memory, "--memory");
  options.stop = watch_interrupts();
  return options;
}

std::string cost_text(const SensitivityCost& cost, const SensitivityOptions& options, const TokenSequences& data) {
  return fmt::format("measuring sensitivity ({}): {} of {} on {} tokens, {:.3g} TFLOP of products, {}{}\n",
                     to_string(options.measure), counted(cost.measurements, "measurement"),
                     counted(cost.linears, "linear"), data.tokens(), cost.operations / 1e12, human_bytes(cost.bytes),
                     cost.resident ? "" : "; weights do not fit in memory and are read again each time");
}

/// The plan of one allocation.
MixedPlan plan_of(const PreparedPlan& base, const SensitivityReport& report, std::uint64_t budget,
                  const Registry& registry) {
  MixedPlan mixed;
  mixed.allocation = allocate_schemes(report, budget);
  const std::string comment = fmt::format(
      "{}, each linear with a scheme of its own: {:.3f} bits per weight.\nBy quant sensitivity ({} on {} "
      "tokens of {}).",
      base.plan.recipe.name, mixed.allocation.bits_per_weight(), to_string(report.measure), report.tokens,
      std::filesystem::path(report.source).filename().string());
  const std::string text = with_schemes(base.plan.recipe, quantizing_modifier(base.plan),
                                        mixed_schemes(report, mixed.allocation, base.plan), comment, registry);
  mixed.recipe = parse_recipe(text, base.plan.recipe.name + "_mixed.yaml", {}, registry);
  mixed.plan = make_plan(*base.checkpoint, mixed.recipe, registry, base.plan.options);
  if (mixed.plan.problems.empty() && bytes_of_linears(mixed.plan) != mixed.allocation.bytes) {
    throw Error(ErrorCode::internal, fmt::format("the mixed plan has {} bytes of linears, the allocation {}",
                                                 bytes_of_linears(mixed.plan), mixed.allocation.bytes));
  }
  return mixed;
}

[[noreturn]] void throw_size_too_small(std::uint64_t size, std::uint64_t smallest) {
  throw Error(ErrorCode::usage,
              fmt::format("--target-size {} ({} bytes) is too small: the smallest output takes {} bytes ({})",
                          human_bytes(size), size, smallest, human_bytes(smallest)),
              "allow more, or offer smaller schemes with --schemes", "BudgetTooSmall");
}

/// Headers and config.json grow with the number of schemes, so the first plan tells what they take.
MixedPlan plan_of_size(const PreparedPlan& base, const SensitivityReport& report, std::uint64_t size,
                       const Registry& registry) {
  const std::uint64_t fixed = base.plan.loading_bytes - bytes_of_linears(base.plan);
  const std::uint64_t smallest = smallest_allocation(report);
  std::uint64_t budget = size > fixed ? size - fixed : 0;
  while (true) {
    budget = std::max(budget, smallest);
    MixedPlan mixed = plan_of(base, report, budget, registry);
    if (!mixed.plan.problems.empty() || mixed.plan.loading_bytes <= size) return mixed;
    if (budget == smallest) throw_size_too_small(size, mixed.plan.loading_bytes);
    const std::uint64_t excess = mixed.plan.loading_bytes - size;
    budget = std::min(budget, mixed.allocation.bytes);
    budget = budget > excess ? budget - excess : 0;
  }
}

}  // namespace

void add_target_options(CLI::App& command, MixedRequest& request, const std::string& group) {
  CLI::Option* bits = command
                          .add_option("--target-bits", request.target_bits,
                                      "Share out schemes so that quantized weights take at most B bits each, scales "
                                      "included")
                          ->type_name("B")
                          ->group(group);
  command
      .add_option("--target-size", request.target_size,
                  "The same for all files that loading the output needs, as in 2.1G")
      ->type_name("SIZE")
      ->excludes(bits)
      ->group(group);
}

void add_measure_options(CLI::App& command, MixedRequest& request, const std::string& group) {
  command
      .add_option("--schemes", request.schemes,
                  fmt::format("Candidates: W<bits>, W<bits>G<group>, presets, base; {} by default", kDefaultCandidates))
      ->type_name("LIST")
      ->group(group);
  command
      .add_option("--measure", request.measure,
                  "kl: divergence of the logits (default); scaled: one divergence per linear; output: no logits")
      ->check(CLI::IsMember({"kl", "scaled", "output"}))
      ->type_name("NAME")
      ->group(group);
  command
      .add_flag("--independent", request.independent,
                "Let q, k and v, gate and up, and experts have different schemes (serving engines refuse that)")
      ->group(group);
}

void check_mixed(const MixedRequest& request) {
  if (!request.target_bits.empty()) parse_bits(request.target_bits);
  if (!request.target_size.empty()) parse_size(request.target_size, "--target-size");
  if (!request.schemes.empty()) {
    for (const std::string& name : parse_candidates(request.schemes)) {
      if (!request.wanted() || !name.starts_with('S')) continue;
      throw Error(ErrorCode::usage, fmt::format("--schemes: {} prunes, and a target shares out schemes only", name),
                  "prune by a recipe with sparsity_profile: error (docs/pruning.md)", "PrunedMixture");
    }
  }
  const bool measures =
      !request.schemes.empty() || !request.measure.empty() || request.independent || request.samples.has_value();
  if (request.wanted()) {
    if (request.report.empty() || !measures) return;
    throw Error(ErrorCode::usage,
                "--schemes, --measure, --independent and --sensitivity-samples are for measuring; a report of "
                "--sensitivity has been measured",
                "leave them out, or leave out --sensitivity", "MeasuredAlready");
  }
  if (request.report.empty() && !measures) return;
  throw Error(ErrorCode::usage,
              "--sensitivity, --schemes, --measure, --independent and --sensitivity-samples need a target",
              "add --target-bits 4.25 or --target-size 2.1G", "NoTarget");
}

MixedPlan make_mixed_plan(const PreparedPlan& base, const MixedRequest& mixed, const SensitivityReport& report,
                          const Registry& registry) {
  quantizing_modifier(base.plan);
  check_sensitivity(report, base.plan);
  if (!mixed.target_size.empty()) {
    return plan_of_size(base, report, parse_size(mixed.target_size, "--target-size"), registry);
  }
  std::uint64_t weights = 0;
  for (const PlannedLinear& linear : base.plan.linears) weights += linear.shape.rows * linear.shape.cols;
  return plan_of(base, report, budget_of_bits(parse_bits(mixed.target_bits), weights), registry);
}

SensitivityReport measure_sensitivity(const PlanRequest& request, const MixedRequest& mixed, const PreparedPlan& base,
                                      const Registry& registry, bool quiet) {
  SensitivityOptions options = sensitivity_options(request, mixed);
  const TokenSequences data = read_samples(request, mixed, base.plan);
  ProgressLine line("measuring", quiet);
  if (line.enabled()) {
    options.progress = [&line, start = std::chrono::steady_clock::now()](double done, double total,
                                                                         const std::string& module) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      line.update({static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total), 0, elapsed.count(), module,
                   false, "operations"});
    };
  }
  SensitivityMeter meter(base.plan, data, options);
  // All sizes are known, and so is whether a target can be met.
  if (mixed.wanted()) make_mixed_plan(base, mixed, meter.unmeasured(), registry);
  if (!quiet) std::fputs(cost_text(meter.cost(), options, data).c_str(), stderr);
  return meter.measure();
}

std::string allocation_text(const SensitivityReport& report, const Allocation& allocation) {
  std::string text;
  for (std::size_t c = 0; c < report.candidates.size(); ++c) {
    const auto count = std::count(allocation.choice.begin(), allocation.choice.end(), c);
    if (count == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", counted(static_cast<std::uint64_t>(count), "linear"),
                        report.candidates[c]);
  }
  return fmt::format("{}: {:.3f} bits per weight", text, allocation.bits_per_weight());
}

}  // namespace quant::cli
