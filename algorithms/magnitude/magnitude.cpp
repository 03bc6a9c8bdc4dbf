// The modifier that removes the smallest magnitudes.
#include "quant/magnitude.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "refit/refitter.h"
#include "shared/mask_selection.h"
#include "shared/prune_task.h"
#include "shared/sparsity.h"

namespace quant {
namespace {

constexpr shared::Compared kCompared = shared::Compared::matrix;

class Magnitude final : public Sparsifier {
 public:
  Magnitude(shared::SparsityRule rule, bool keep_zeros, const RefitOptions& refit)
      : rule_(std::move(rule)), keep_zeros_(keep_zeros), refit_(refit) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs = refit_needs(refit_);
    needs.mean = rule_.corrects_bias();
    return needs;
  }
  bool corrects_bias() const override { return rule_.corrects_bias(); }
  SparsityPattern pattern(const std::string& module) const override { return rule_.pattern(module); }
  std::optional<std::uint64_t> kept(const SparsityPattern& pattern, std::uint64_t rows,
                                    std::uint64_t cols) const override {
    if (keep_zeros_) return std::nullopt;
    return shared::kept_weights(pattern, rows, cols, kCompared);
  }

  void prune(std::span<PruneTask> group, const InputStatistics& inputs, const RunContext& context) const override {
    const refit::Refitter refitter(inputs, refit_, context);
    for (PruneTask& task : group) {
      if (refit_.kind != Refit::none) shared::require_inputs(task, inputs);
      shared::begin_pruning(task, context, keep_zeros_);
      const std::vector<float> original = refitter.original_of(task);
      const auto magnitudes = [&](std::uint64_t row, std::span<float> scores) {
        const float* own = task.weight.data() + row * task.cols;
        for (std::uint64_t c = 0; c < task.cols; ++c) scores[c] = std::fabs(own[c]);
      };
      shared::remove_smallest(task.rows, task.cols, magnitudes, task.pattern, kCompared, task.mask, context.threads);
      shared::clear_removed(task, context.threads);
      refitter.run(task, original);
    }
  }
  double operations(std::uint64_t rows, std::uint64_t cols) const override {
    return refit::operations(refit_, rows, cols);
  }
  std::uint64_t scratch_bytes(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols,
                              int threads) const override {
    return refit::original_bytes(refit_, rows, cols) +
           std::max(shared::selection_bytes(pattern, rows, cols, threads), refit::scratch_bytes(refit_, rows, cols));
  }

 private:
  shared::SparsityRule rule_;
  bool keep_zeros_;
  RefitOptions refit_;
};

// A schedule ends at the final sparsity; one shot goes there at once.
void check_schedule(const Parameters& parameters) {
  const double first = shared::number_parameter(parameters, "init_sparsity", 0);
  shared::require(first >= 0 && first <= 1, "init_sparsity", "from 0 to 1");
  const std::string scheduler = shared::word_parameter(parameters, "update_scheduler", "cubic");
  constexpr std::array<std::string_view, 5> kSchedulers = {"linear", "cubic", "polynomial", "polynomial_decay",
                                                           "multi_step"};
  const bool known = std::find(kSchedulers.begin(), kSchedulers.end(), scheduler) != kSchedulers.end();
  shared::require(known || scheduler.starts_with("calc("), "update_scheduler",
                  "linear, cubic, polynomial, polynomial_decay, multi_step or calc(...), not '" + scheduler + "'");
}

// final_sparsity is what llm-compressor calls the sparsity.
Parameters with_final_sparsity(Parameters parameters) {
  const std::string last = shared::word_parameter(parameters, "final_sparsity", "");
  if (last.empty()) return parameters;
  const auto json = nlohmann::json::parse(last, nullptr, false);
  shared::require(json.is_number() && json >= 0 && json <= 1, "final_sparsity", "a number from 0 to 1");
  const std::string share = shared::word_parameter(parameters, "sparsity", "");
  if (!share.empty() && nlohmann::json::parse(share, nullptr, false) != json) {
    // Lists and mappings of profiles that were resolved stand for it.
    const bool single = nlohmann::json::parse(share, nullptr, false).is_number();
    if (single)
      throw Error(ErrorCode::usage, "final_sparsity: it is " + last + ", sparsity is " + share + "; leave one out");
    return parameters;
  }
  parameters["sparsity"] = last;
  return parameters;
}

std::vector<ParameterSpec> parameter_specs() {
  using Type = ParameterSpec::Type;
  std::vector<ParameterSpec> specs = shared::sparsity_parameters(shared::MaskWords::outlines);
  specs.insert(specs.end(),
               {{"final_sparsity", Type::json, std::string(), "llm-compressor's name of `sparsity`"},
                {"init_sparsity", Type::number, 0.0, "start of a schedule; accepted, one shot goes to the end at once"},
                {"update_scheduler", Type::text, std::string("cubic"), "of a schedule; accepted and ignored"},
                {"scheduler_args", Type::json, std::string(), "of a schedule; accepted and ignored"},
                {"leave_enabled", Type::boolean, true, "accepted and ignored: masks hold until the end"},
                {"apply_globally", Type::boolean, false, "the same as `sparsity_profile: global`"}});
  const std::vector<ParameterSpec> refit = refit::parameters(true);
  specs.insert(specs.end(), refit.begin(), refit.end());
  return specs;
}

}  // namespace

PrunedWeight magnitude_prune(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols,
                             const SparsityPattern& pattern, int threads) {
  return shared::prune_weight(Magnitude(shared::SparsityRule(pattern), false, {}), weight, rows, cols, {}, pattern,
                              threads);
}

std::unique_ptr<Sparsifier> make_magnitude(const Parameters& parameters) {
  check_schedule(parameters);
  return std::make_unique<Magnitude>(shared::SparsityRule(with_final_sparsity(parameters), shared::MaskWords::outlines),
                                     shared::boolean_parameter(parameters, "preserve_sparsity_mask", false),
                                     refit::options_of(parameters));
}

void register_magnitude(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "magnitude";
  entry.modifier = "MagnitudePruningModifier";
  entry.summary = "sets the weights of smallest magnitude to 0";
  entry.source = "Han et al. 2015 (arXiv 1506.02626); llm-compressor (MagnitudePruningModifier)";
  entry.parameters = parameter_specs();
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> { return make_magnitude(parameters); };
  registry.add(std::move(entry));
}

}  // namespace quant
