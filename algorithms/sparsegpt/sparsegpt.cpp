// The modifier that removes weights and lets others make up for them.
#include "quant/sparsegpt.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "gptq/solver.h"
#include "quant/error.h"
#include "refit/mask_search.h"
#include "refit/refitter.h"
#include "shared/mask_selection.h"
#include "shared/prune_task.h"
#include "shared/sparsity.h"
#include "sweep.h"

namespace quant {
namespace {

using shared::Compared;

void check(const SparseGptOptions& options) {
  shared::require(options.block_size >= 1 && options.block_size <= 65536, "block_size", "from 1 to 65536");
  shared::require(options.dampening_frac >= 0 && options.dampening_frac <= 1e6, "dampening_frac", "from 0 to 1e6");
  shared::require(options.dampening_increment >= 1e-6 && options.dampening_increment <= 1, "dampening_increment",
                  "from 1e-6 to 1");
  refit::check(options.refit);
}

// The factor of H is GPTQ's, of columns in their own order.
GptqOptions factor_options(const SparseGptOptions& options) {
  GptqOptions factor;
  factor.dampening_frac = options.dampening_frac;
  factor.dampening_increment = options.dampening_increment;
  factor.fallback_threshold = options.fallback_threshold;
  factor.order = ColumnOrder::none;
  return factor;
}

class SparseGpt final : public Sparsifier {
 public:
  SparseGpt(shared::SparsityRule rule, const SparseGptOptions& options) : rule_(std::move(rule)), options_(options) {
    check(options_);
  }

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs = refit_needs(options_.refit);
    needs.gram = true;
    needs.mean = rule_.corrects_bias();
    return needs;
  }
  bool corrects_bias() const override { return rule_.corrects_bias(); }
  SparsityPattern pattern(const std::string& module) const override { return rule_.pattern(module); }
  std::optional<std::uint64_t> kept(const SparsityPattern& pattern, std::uint64_t rows,
                                    std::uint64_t cols) const override {
    if (options_.keep_zeros || options_.threshold == SparseGptThreshold::reference) return std::nullopt;
    return shared::kept_weights(pattern, rows, cols, Compared::matrix);
  }
  double operations(std::uint64_t rows, std::uint64_t cols) const override {
    const auto n = static_cast<double>(cols);
    const double product = 2 * static_cast<double>(rows) * n * n;
    const double search = options_.mask_search == MaskSearch::admm ? 40 * product + 8 * 2.7 * n * n * n : 0;
    return search + n * n * n * 2 / 3 + static_cast<double>(rows) * n * n +
           refit::operations(options_.refit, rows, cols);  // a factor of H, and half a product
  }

  std::uint64_t scratch_bytes(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols,
                              int threads) const override {
    // With its diagonals and the blocks that are factored in float64.
    const std::uint64_t factor = cols * cols * sizeof(float) + cols * 64 + (std::uint64_t{1} << 17U);
    std::uint64_t most = std::max(sparsegpt::Sweep::scratch_bytes(rows, cols, options_.block_size, threads),
                                  refit::scratch_bytes(options_.refit, rows, cols));
    if (options_.mask_search == MaskSearch::admm) most = std::max(most, refit::search_bytes(rows, cols));
    return factor + refit::original_bytes(options_.refit, rows, cols) + most +
           shared::selection_bytes(pattern, rows, cols, threads);
  }

  void prune(std::span<PruneTask> group, const InputStatistics& inputs, const RunContext& context) const override {
    const GptqOptions options = factor_options(options_);
    gptq::SharedInputs shared(inputs, options, context);
    const refit::Refitter refitter(inputs, options_.refit, context);
    for (PruneTask& task : group) {
      shared::require_inputs(task, inputs);
      shared::begin_pruning(task, context, options_.keep_zeros);
      if (task.weight.empty()) continue;
      const std::vector<float> original = refitter.original_of(task);
      solve(task, shared);
      refitter.run(task, original);
    }
  }

 private:
  void solve(PruneTask& task, gptq::SharedInputs& shared) const {
    const int threads = shared.context().threads;
    if (!shared.refusal().empty()) return fall_back(task, shared.inputs(), shared.refusal(), threads);
    const auto factor = shared.ordered(QuantArgs()).factor;
    if (factor->upper.empty()) return fall_back(task, shared.inputs(), factor->failure, threads);
    task.record.damping = factor->damping;
    task.record.notes = factor->notes;
    bool reference = options_.threshold == SparseGptThreshold::reference;
    note_dead(task, shared.dead(), reference);
    SparsityPattern pattern = task.pattern;
    if (options_.mask_search == MaskSearch::admm) {
      const refit::Metric metric = refit::make_metric(shared.inputs().gram, task.cols, factor->damping);
      if (refit::search_mask(metric, task.weight, task.rows, pattern, task.mask, shared.context())) {
        pattern = {};  // nothing is left to choose
        reference = false;
      } else {
        task.record.notes.emplace_back("the mask is the sweep's: H has no factor in the search for a better one");
      }
    }
    sparsegpt::Sweep({task.rows, task.cols, task.weight, task.mask}, pattern, factor->upper, shared.dead(),
                     options_.block_size, reference, threads)
        .run();
  }

  static void note_dead(PruneTask& task, std::span<const std::uint32_t> dead, bool remove) {
    if (dead.empty()) return;
    for (std::uint64_t r = 0; remove && r < task.rows; ++r) {
      for (const std::uint32_t c : dead) {
        task.mask[r * task.cols + c] = 0;
        task.weight[r * task.cols + c] = 0;
      }
    }
    task.record.notes.push_back(std::to_string(dead.size()) + " of " + std::to_string(task.cols) +
                                " inputs were always 0: their weights were removed" + (remove ? "" : " first"));
  }

  static void fall_back(PruneTask& task, const InputStatistics& inputs, const std::string& reason, int threads) {
    const std::vector<float> norms = shared::input_norms(inputs);
    task.record.fallback =
        std::string("pruned by magnitude") + (norms.empty() ? "" : " and input norms, without updates") + ": " + reason;
    const auto scores = [&](std::uint64_t row, std::span<float> out) {
      const float* own = task.weight.data() + row * task.cols;
      for (std::uint64_t c = 0; c < task.cols; ++c) out[c] = std::fabs(own[c]) * (norms.empty() ? 1.0F : norms[c]);
    };
    shared::remove_smallest(task.rows, task.cols, scores, task.pattern, Compared::matrix, task.mask, threads);
    shared::clear_removed(task, threads);
  }

  shared::SparsityRule rule_;
  SparseGptOptions options_;
};

SparseGptOptions options_of(const Parameters& parameters) {
  SparseGptOptions options;
  options.block_size = shared::count_parameter(parameters, "block_size", options.block_size);
  options.dampening_frac = shared::number_parameter(parameters, "dampening_frac", options.dampening_frac);
  options.dampening_increment =
      shared::number_parameter(parameters, "dampening_increment", options.dampening_increment);
  options.fallback_threshold = shared::count_parameter(parameters, "fallback_threshold", options.fallback_threshold);
  options.keep_zeros = shared::boolean_parameter(parameters, "preserve_sparsity_mask", options.keep_zeros);
  const std::string threshold = shared::word_parameter(parameters, "threshold", "exact");
  shared::require(threshold == "exact" || threshold == "reference", "threshold",
                  "exact or reference, not '" + threshold + "'");
  const std::string search = shared::word_parameter(parameters, "mask_search", "none");
  shared::require(search == "none" || search == "admm", "mask_search", "none or admm, not '" + search + "'");
  options.mask_search = search == "admm" ? MaskSearch::admm : MaskSearch::none;
  options.refit = refit::options_of(parameters);
  if (threshold == "reference") options.threshold = SparseGptThreshold::reference;
  return options;
}

std::vector<ParameterSpec> parameter_specs() {
  using Type = ParameterSpec::Type;
  const SparseGptOptions defaults;
  const auto whole = [](std::uint64_t value) { return KwValue(static_cast<std::int64_t>(value)); };
  std::vector<ParameterSpec> specs = shared::sparsity_parameters(shared::MaskWords::counts);
  specs.insert(
      specs.end(),
      {{"block_size", Type::integer, whole(defaults.block_size),
        "columns among which weights compete, and whose errors are passed on together"},
       {"dampening_frac", Type::number, defaults.dampening_frac, "of H's mean diagonal, added to its diagonal"},
       {"dampening_increment", Type::number, defaults.dampening_increment, "first step up if H is singular even so"},
       {"threshold", Type::text, std::string("exact"),
        "exact: exactly the share asked for; reference: as the authors' program, a little more"},
       {"fallback_threshold", Type::integer, whole(defaults.fallback_threshold),
        "fewer tokens than these: by magnitude and input norms, without updates"},
       {"mask_search", Type::text, std::string("none"),
        "admm: a mask of less error, chosen together with all weights (ALPS); takes about 50 times as long"},
       {"offload_hessians", Type::boolean, false, "accepted and ignored"}});
  const std::vector<ParameterSpec> refit = refit::parameters(false);
  specs.insert(specs.end(), refit.begin(), refit.end());
  return specs;
}

}  // namespace

PrunedWeight sparsegpt_prune(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                             const SparsityPattern& pattern, const SparseGptOptions& options, int threads) {
  return shared::prune_weight(SparseGpt(shared::SparsityRule(pattern), options), weight, rows, inputs.cols, inputs,
                              pattern, threads);
}

std::unique_ptr<Sparsifier> make_sparsegpt(const Parameters& parameters) {
  return std::make_unique<SparseGpt>(shared::SparsityRule(parameters, shared::MaskWords::counts),
                                     options_of(parameters));
}

void register_sparsegpt(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "sparsegpt";
  entry.modifier = "SparseGPTModifier";
  entry.summary = "sets weights to 0 and lets the others make up for them";
  entry.source = "Frantar and Alistarh 2023, SparseGPT (arXiv 2301.00774); llm-compressor (SparseGPTModifier)";
  entry.parameters = parameter_specs();
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> { return make_sparsegpt(parameters); };
  registry.add(std::move(entry));
}

}  // namespace quant
