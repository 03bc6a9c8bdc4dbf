#include "sparsity_profiles.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "interrupt.h"
#include "mixed_plan.h"
#include "progress.h"
#include "quant/data_files.h"
#include "quant/error.h"
#include "quant/sensitivity.h"
#include "quant/sparsity_profile.h"

namespace quant::cli {
namespace {

TokenSequences read_samples(const PlanRequest& request, const Plan& plan, const std::string& profile) {
  if (!profile_needs_data(profile)) return {};
  if (request.calibration.empty()) {
    throw Error(
        ErrorCode::usage,
        fmt::format("sparsity_profile {} is found by running the model on text: give --calibration FILE", profile),
        fmt::format("as in: --calibration {}/calibration.txt", request.model), "NoCalibration");
  }
  const std::filesystem::path file = request.calibration;
  std::optional<Tokenizer> tokenizer;
  if (!holds_token_ids(file)) tokenizer = Tokenizer::open(model_directory(plan.checkpoint->location()));
  CalibrationOptions options = plan.options.calibration.data;
  options.samples = 0;
  return spread_sequences(read_sequences(file, tokenizer ? &*tokenizer : nullptr, options), kDefaultSamples);
}

std::vector<ModuleSparsity> resolve(const PlanRequest& request, const Plan& plan, std::size_t modifier, bool quiet) {
  const std::string profile = sparsity_profile(plan.recipe.modifiers[modifier]);
  const TokenSequences data = read_samples(request, plan, profile);
  SparsityProfileOptions options;
  options.product = request.product == "bf16" ? ProductType::bf16 : ProductType::f32;
  options.threads = request.threads;
  options.memory = plan.options.memory_bytes;
  options.stop = watch_interrupts();
  ProgressLine line("sharing out sparsity", quiet);
  if (line.enabled()) {
    options.progress = [&line, start = std::chrono::steady_clock::now()](std::uint64_t done, std::uint64_t total,
                                                                         const std::string& module) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      line.update({done, total, 0, elapsed.count(), module, false, "linears"});
    };
  }
  return resolve_sparsity_profile(plan, modifier, data, options);
}

}  // namespace

bool has_sparsity_profiles(const Plan& plan) {
  return std::any_of(plan.recipe.modifiers.begin(), plan.recipe.modifiers.end(),
                     [](const RecipeModifier& modifier) { return !sparsity_profile(modifier).empty(); });
}

void resolve_sparsity_profiles(const PlanRequest& request, const Registry& registry, bool quiet,
                               PreparedPlan& prepared) {
  const std::string name = prepared.plan.recipe.name;
  for (std::size_t m = 0; m < prepared.plan.recipe.modifiers.size(); ++m) {
    const std::string profile = sparsity_profile(prepared.plan.recipe.modifiers[m]);
    if (profile.empty()) continue;
    const std::vector<ModuleSparsity> found = resolve(request, prepared.plan, m, quiet);
    if (found.empty()) continue;
    const auto by_share = [](const ModuleSparsity& a, const ModuleSparsity& b) { return a.second < b.second; };
    const auto [least, most] = std::minmax_element(found.begin(), found.end(), by_share);
    if (!quiet) {
      std::fputs(fmt::format("sparsity_profile {}: from {:.1f} % ({}) to {:.1f} % ({})\n", profile, 100 * least->second,
                             least->first, 100 * most->second, most->first)
                     .c_str(),
                 stderr);
    }
    const std::string comment =
        fmt::format("{}, with the sparsity of each linear by sparsity_profile {}.", name, profile);
    const std::string text = with_sparsities(prepared.plan.recipe, m, found, comment, registry);
    const Recipe recipe = parse_recipe(text, name + "_resolved.yaml", {}, registry);
    prepared.plan = make_plan(*prepared.checkpoint, recipe, registry, prepared.plan.options);
  }
}

}  // namespace quant::cli
