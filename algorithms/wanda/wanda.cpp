// The modifier that removes what contributes least to the outputs.
#include "quant/wanda.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quant/error.h"
#include "refit/refitter.h"
#include "rtn/parallel_for.h"
#include "shared/mask_selection.h"
#include "shared/prune_task.h"
#include "shared/sparsity.h"

namespace quant {
namespace {

using shared::Compared;

struct WandaOptions {
  WandaVariant variant = WandaVariant::rows;
  bool keep_zeros = false;
  RefitOptions refit;
};

// Each weight's share of its row's sum of scores, with all smaller ones [rows, cols].
std::vector<float> cumulative_shares(std::uint64_t rows, std::uint64_t cols, const shared::RowScores& scores,
                                     int threads) {
  std::vector<float> shares(rows * cols);
  struct Own {
    std::vector<float> scores;
    std::vector<std::uint32_t> order;
  };
  const auto rate = [&](Own& own, std::size_t row) {
    scores(row, own.scores);
    std::iota(own.order.begin(), own.order.end(), 0U);
    std::stable_sort(own.order.begin(), own.order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return own.scores[a] < own.scores[b]; });
    double total = 0;
    for (const float score : own.scores) total += score;
    double sum = 0;
    for (const std::uint32_t c : own.order) {
      sum += own.scores[c];
      const double share = total > 0 ? sum / total : 0;
      shares[row * cols + c] = std::isfinite(share) ? static_cast<float>(share) : 1.0F;
    }
  };
  rtn::parallel_for(
      threads, rows,
      [&] {
        return Own{std::vector<float>(cols), std::vector<std::uint32_t>(cols)};
      },
      rate, [](Own&) {});
  return shares;
}

class Wanda final : public Sparsifier {
 public:
  Wanda(shared::SparsityRule rule, const WandaOptions& options) : rule_(std::move(rule)), options_(options) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs = refit_needs(options_.refit);
    needs.square = !needs.gram;  // which holds them
    needs.mean = rule_.corrects_bias();
    return needs;
  }
  bool corrects_bias() const override { return rule_.corrects_bias(); }
  SparsityPattern pattern(const std::string& module) const override { return rule_.pattern(module); }
  std::optional<std::string> unsupported_pattern(const SparsityPattern& pattern) const override {
    if (options_.variant != WandaVariant::cumulative || !(pattern.semi_structured() || pattern.blocks())) {
      return std::nullopt;
    }
    return "variant: cumulative shares of a row's scores make no pattern of " + describe(pattern);
  }
  std::optional<std::uint64_t> kept(const SparsityPattern& pattern, std::uint64_t rows,
                                    std::uint64_t cols) const override {
    if (options_.keep_zeros) return std::nullopt;
    return shared::kept_weights(pattern, rows, cols, compared());
  }

  void prune(std::span<PruneTask> group, const InputStatistics& inputs, const RunContext& context) const override {
    const std::vector<float> norms = shared::input_norms(inputs);
    const refit::Refitter refitter(inputs, options_.refit, context);
    for (PruneTask& task : group) {
      shared::require_inputs(task, inputs);
      shared::begin_pruning(task, context, options_.keep_zeros);
      if (const auto problem = unsupported_pattern(task.pattern)) throw Error(ErrorCode::usage, *problem);
      if (norms.empty()) {
        task.record.fallback = "pruned by magnitude: " + shared::lack_of_norms(inputs);
      }
      const std::vector<float> original = refitter.original_of(task);
      choose(task, norms, context.threads);
      shared::clear_removed(task, context.threads);
      refitter.run(task, original);
    }
  }
  double operations(std::uint64_t rows, std::uint64_t cols) const override {
    return refit::operations(options_.refit, rows, cols);
  }
  std::uint64_t scratch_bytes(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols,
                              int threads) const override {
    const bool cumulative = options_.variant == WandaVariant::cumulative;
    const std::uint64_t shares = cumulative ? rows * cols * sizeof(float) : 0;
    return refit::original_bytes(options_.refit, rows, cols) +
           std::max(shares + shared::selection_bytes(pattern, rows, cols, threads),
                    refit::scratch_bytes(options_.refit, rows, cols));
  }

 private:
  Compared compared() const { return options_.variant == WandaVariant::cumulative ? Compared::matrix : Compared::row; }

  void choose(const PruneTask& task, std::span<const float> norms, int threads) const {
    const std::uint64_t cols = task.cols;
    shared::RowScores scores = [&](std::uint64_t row, std::span<float> out) {
      const float* own = task.weight.data() + row * cols;
      for (std::uint64_t c = 0; c < cols; ++c)
        out[c] = norms.empty() ? std::fabs(own[c]) : std::fabs(own[c]) * norms[c];
    };
    std::vector<float> shares;
    if (options_.variant == WandaVariant::cumulative) {
      shares = cumulative_shares(task.rows, cols, scores, threads);
      scores = [&](std::uint64_t row, std::span<float> out) {
        std::copy_n(shares.data() + row * cols, cols, out.data());
      };
    }
    shared::remove_smallest(task.rows, cols, scores, task.pattern, compared(), task.mask, threads);
  }

  shared::SparsityRule rule_;
  WandaOptions options_;
};

WandaVariant variant_of(const Parameters& parameters) {
  const std::string name = shared::word_parameter(parameters, "variant", "rows");
  shared::require(name == "rows" || name == "cumulative", "variant", "rows or cumulative, not '" + name + "'");
  return name == "rows" ? WandaVariant::rows : WandaVariant::cumulative;
}

std::vector<ParameterSpec> parameter_specs() {
  using Type = ParameterSpec::Type;
  std::vector<ParameterSpec> specs = shared::sparsity_parameters(shared::MaskWords::counts);
  specs.push_back({"variant", Type::text, std::string("rows"),
                   "rows: the same share of each row; cumulative: by shares of the row's sum of scores"});
  const std::vector<ParameterSpec> refit = refit::parameters(true);
  specs.insert(specs.end(), refit.begin(), refit.end());
  return specs;
}

}  // namespace

PrunedWeight wanda_prune(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                         const SparsityPattern& pattern, WandaVariant variant, int threads) {
  return shared::prune_weight(Wanda(shared::SparsityRule(pattern), {variant, false, {}}), weight, rows, inputs.cols,
                              inputs, pattern, threads);
}

std::unique_ptr<Sparsifier> make_wanda(const Parameters& parameters) {
  WandaOptions options;
  options.variant = variant_of(parameters);
  options.keep_zeros = shared::boolean_parameter(parameters, "preserve_sparsity_mask", false);
  options.refit = refit::options_of(parameters);
  return std::make_unique<Wanda>(shared::SparsityRule(parameters, shared::MaskWords::counts), options);
}

void register_wanda(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "wanda";
  entry.modifier = "WandaPruningModifier";
  entry.summary = "sets the weights that contribute least to the outputs to 0";
  entry.source = "Sun et al. 2023, Wanda (arXiv 2306.11695); llm-compressor (WandaPruningModifier)";
  entry.parameters = parameter_specs();
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> { return make_wanda(parameters); };
  registry.add(std::move(entry));
}

}  // namespace quant
