// From losses and choices to the schemes of a recipe.
#include <fmt/format.h>

#include <algorithm>

#include "quant/error.h"
#include "quant/sensitivity.h"
#include "quant/statistics_file.h"

namespace quant {
namespace {

[[noreturn]] void throw_mismatch(const SensitivityReport& report, const std::string& why) {
  throw Error(ErrorCode::usage,
              fmt::format("the sensitivity report of {} does not fit this model and recipe: {}", report.model, why),
              "measure again with 'quant sensitivity'", "OtherModel");
}

void check_model(const SensitivityReport& report, const Plan& plan) {
  const std::string hash = model_fingerprint(*plan.checkpoint);
  if (report.model_hash == hash) return;
  throw Error(ErrorCode::usage,
              fmt::format("the sensitivity report is of another model: it was measured on {} (fingerprint {}), this is "
                          "{} ({})",
                          report.model, report.model_hash, plan.checkpoint->location().string(), hash),
              "measure this one with 'quant sensitivity'", "OtherModel");
}

Scheme scheme_of(const SensitivityReport& report, const Plan& plan, std::size_t linear, std::size_t candidate) {
  return candidate_scheme(plan.groups[plan.linears[linear].scheme].scheme, report.candidates[candidate]);
}

}  // namespace

void check_sensitivity(const SensitivityReport& report, const Plan& plan) {
  check_model(report, plan);
  if (report.layout != plan.options.layout) {
    throw_mismatch(report, fmt::format("its sizes are those of the layout {}", report.layout));
  }
  if (report.linears.size() != plan.linears.size()) {
    throw_mismatch(
        report, fmt::format("it has {} linears, the recipe quantizes {}", report.linears.size(), plan.linears.size()));
  }
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    const LinearSensitivity& linear = report.linears[i];
    const LinearShape& shape = plan.linears[i].shape;
    if (linear.module != shape.module || linear.rows != shape.rows || linear.cols != shape.cols) {
      throw_mismatch(report, fmt::format("it has '{}' [{}, {}] in the place of '{}' [{}, {}]", linear.module,
                                         linear.rows, linear.cols, shape.module, shape.rows, shape.cols));
    }
    for (std::size_t c = 0; c < report.candidates.size(); ++c) {
      const Scheme scheme = scheme_of(report, plan, i, c);
      const CandidateLoss& loss = linear.losses[c];
      std::uint64_t bytes = 0;
      if (loss.possible) {
        for (const StoredTensor& tensor : plan.layout->stored(scheme, shape)) bytes += tensor.bytes();
      }
      if (loss.scheme != describe(*scheme.weights) || (loss.possible && loss.bytes != bytes)) {
        throw_mismatch(report,
                       fmt::format("{} of '{}' is {} in {} bytes there, {} in {} bytes here", report.candidates[c],
                                   linear.module, loss.scheme, loss.bytes, describe(*scheme.weights), bytes));
      }
    }
  }
}

std::vector<RecipeScheme> mixed_schemes(const SensitivityReport& report, const Allocation& allocation,
                                        const Plan& plan) {
  std::vector<RecipeScheme> schemes;
  for (std::size_t i = 0; i < report.linears.size(); ++i) {
    Scheme scheme = scheme_of(report, plan, i, allocation.choice[i]);
    scheme.targets.clear();
    const auto same = [&](const RecipeScheme& known) {
      return known.scheme.weights == scheme.weights && known.scheme.input_activations == scheme.input_activations &&
             known.scheme.output_activations == scheme.output_activations && known.scheme.format == scheme.format;
    };
    auto found = std::find_if(schemes.begin(), schemes.end(), same);
    if (found == schemes.end()) {
      RecipeScheme added;
      added.name = fmt::format("mixed_{}", schemes.size());
      added.scheme = std::move(scheme);
      schemes.push_back(std::move(added));
      found = std::prev(schemes.end());
    }
    found->targets.push_back({report.linears[i].module, {}});
    found->scheme.targets.push_back(report.linears[i].module);
  }
  return schemes;
}

}  // namespace quant
