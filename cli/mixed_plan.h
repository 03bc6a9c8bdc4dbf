// Mixed precision: options, measuring, and the plan whose schemes fit a budget.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "plan_request.h"
#include "quant/sensitivity.h"

namespace quant::cli {

inline constexpr std::uint64_t kDefaultSamples = 8;

struct MixedRequest {
  std::string target_bits;
  std::string target_size;
  std::string report;  ///< a file of quant sensitivity, instead of measuring
  std::string schemes;
  std::string measure;
  std::optional<std::uint64_t> samples;  ///< sequences to measure on, 0: all; kDefaultSamples if not given
  bool independent = false;

  bool wanted() const { return !target_bits.empty() || !target_size.empty(); }
};

/// --target-bits and --target-size.
void add_target_options(CLI::App& command, MixedRequest& request, const std::string& group);
/// --schemes, --measure and --independent.
void add_measure_options(CLI::App& command, MixedRequest& request, const std::string& group);
/// Throws Error{usage} for options of MixedRequest that say nothing together.
void check_mixed(const MixedRequest& request);

/// Runs the original model, says on stderr what that costs, draws progress unless `quiet`. A target that no choice can
/// meet is refused before that, as by make_mixed_plan.
SensitivityReport measure_sensitivity(const PlanRequest& request, const MixedRequest& mixed, const PreparedPlan& base,
                                      const Registry& registry, bool quiet);

/// What a budget led to.
struct MixedPlan {
  Allocation allocation;
  Recipe recipe;
  Plan plan;
};
/// The recipe that gives each linear of `base` its scheme, and its plan, never larger than asked for. Throws as
/// allocate_schemes; Error{recipe} if `base` has several quantizing modifiers.
MixedPlan make_mixed_plan(const PreparedPlan& base, const MixedRequest& mixed, const SensitivityReport& report,
                          const Registry& registry);

/// "12 linears W3G128, 30 linears W4G128: 3.81 bits per weight".
std::string allocation_text(const SensitivityReport& report, const Allocation& allocation);

}  // namespace quant::cli
