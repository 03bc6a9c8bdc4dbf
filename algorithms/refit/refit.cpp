#include "quant/refit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "least_squares.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "refitter.h"
#include "rtn/parallel_for.h"
#include "shared/sparsity.h"

namespace quant {
namespace refit {
namespace {

// Rows that are worked on together: the solver holds four matrices of them.
std::uint64_t slab_rows(std::uint64_t cols) {
  return std::max<std::uint64_t>(64, (std::uint64_t{1} << 22) / std::max<std::uint64_t>(1, cols));
}

GptqOptions shared_options(const RefitOptions& options) {
  GptqOptions shared;
  shared.asymmetric = options.asymmetric;
  shared.residual = options.residual;
  return shared;
}

bool fits_residual(const InputStatistics& inputs, std::uint64_t rows) {
  return inputs.residual.size() == rows * inputs.cols;
}

}  // namespace

std::vector<ParameterSpec> parameters(bool damping) {
  using Type = ParameterSpec::Type;
  const RefitOptions defaults;
  std::vector<ParameterSpec> specs = {
      {"refit", Type::text, std::string("none"),
       "what is kept makes up for what is gone: exact (least squares given the mask), scale (a factor for each row) or "
       "none"},
      {"asymmetric", Type::number, defaults.asymmetric,
       "0 to 1: refit compensates that share of the error that earlier layers made (a second pass of the dense model)"},
      {"residual", Type::number, defaults.residual,
       "0 to 1: refit compensates that share of the error of the residual stream (second pass likewise)"},
      {"refit_tolerance", Type::number, defaults.tolerance, "exact: the residual at which a row is done"}};
  if (damping) {
    specs.insert(specs.begin() + 1, {"dampening_frac", Type::number, defaults.dampening_frac,
                                     "refit: of H's mean diagonal, added to its diagonal"});
  }
  return specs;
}

RefitOptions options_of(const Parameters& parameters) {
  RefitOptions options;
  const std::string kind = shared::word_parameter(parameters, "refit", "none");
  shared::require(kind == "none" || kind == "scale" || kind == "exact", "refit",
                  "none, scale or exact, not '" + kind + "'");
  options.kind = kind == "scale" ? Refit::scale : kind == "exact" ? Refit::exact : Refit::none;
  options.dampening_frac = shared::number_parameter(parameters, "dampening_frac", options.dampening_frac);
  options.asymmetric = shared::number_parameter(parameters, "asymmetric", options.asymmetric);
  options.residual = shared::number_parameter(parameters, "residual", options.residual);
  options.tolerance = shared::number_parameter(parameters, "refit_tolerance", options.tolerance);
  check(options);
  return options;
}

void check(const RefitOptions& options) {
  shared::require(options.dampening_frac >= 0 && options.dampening_frac <= 1e6, "dampening_frac", "from 0 to 1e6");
  shared::require(options.asymmetric >= 0 && options.asymmetric <= 1, "asymmetric", "from 0 to 1");
  shared::require(options.residual >= 0 && options.residual <= 1, "residual", "from 0 to 1");
  shared::require(options.tolerance > 0 && options.tolerance <= 1, "refit_tolerance", "above 0 and at most 1");
  if (options.kind != Refit::none) return;
  shared::require(options.asymmetric == 0, "asymmetric", "0 without a refit, which is what compensates");
  shared::require(options.residual == 0, "residual", "0 without a refit, which is what compensates");
}

double operations(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols) {
  constexpr double kUsualIterations = 15;
  const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols);
  if (options.kind == Refit::none) return 0;
  return product * (options.kind == Refit::scale ? 2 : 2 + kUsualIterations);
}

std::uint64_t original_bytes(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols) {
  return options.kind == Refit::none ? 0 : rows * cols * sizeof(float);
}

std::uint64_t scratch_bytes(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols) {
  if (options.kind == Refit::none) return 0;
  // The target, and the solver's matrices: products alone, or the start and directions as well.
  const std::uint64_t matrices = options.kind == Refit::scale ? 2 : 4;
  const std::uint64_t slab = std::min(slab_rows(cols), rows);
  // Beside them what is known of each row and column.
  return matrices * slab * cols * sizeof(float) + (slab + cols) * 4 * sizeof(double);
}

Refitter::Refitter(const InputStatistics& inputs, const RefitOptions& options, const RunContext& context)
    : inputs_(inputs), options_(options), shared_options_(shared_options(options)), context_(context) {
  if (options.kind != Refit::none) shared_.emplace(inputs, shared_options_, context);
}

std::vector<float> Refitter::original_of(const PruneTask& task) const {
  if (options_.kind == Refit::none) return {};
  if (!task.original.empty()) return {task.original.begin(), task.original.end()};
  return {task.weight.begin(), task.weight.end()};
}

void Refitter::run(PruneTask& task, std::span<const float> original) const {
  if (options_.kind != Refit::none) run(task.weight, original, task.mask, task.rows, task.record);
}

void Refitter::run(std::span<float> pruned, std::span<const float> original, std::span<const std::uint8_t> mask,
                   std::uint64_t rows, SolveRecord& record) const {
  const std::uint64_t n = inputs_.cols;
  if (pruned.empty() || !shared_) return;
  if (!shared_->refusal().empty()) {
    record.notes.push_back("kept weights were not refitted: " + shared_->refusal());
    return;
  }
  const Metric metric = make_metric(inputs_.gram, n, options_.dampening_frac);
  const double residual = fits_residual(inputs_, rows) && gptq::all_finite(inputs_.residual) ? options_.residual : 0;
  if (shared_->asymmetric() < options_.asymmetric) {
    record.notes.emplace_back("earlier layers' errors are not compensated: there is no (finite) cross-Gram matrix");
  }
  Outcome all;
  const std::uint64_t step = slab_rows(n);
  std::vector<float> target(std::min(step, rows) * n);
  for (std::uint64_t first = 0; first < rows; first += step) {
    if (context_.stop != nullptr && context_.stop->load())
      throw Error(ErrorCode::interrupted, "stopped while refitting");
    const std::uint64_t count = std::min(step, rows - first), size = count * n;
    const std::span<const float> own = original.subspan(first * n, size);
    times_metric(metric, own, count, target, context_.threads);
    if (shared_->asymmetric() > 0) {
      gemm(count, n, n, static_cast<float>(shared_->asymmetric()), {own.data(), n}, {inputs_.cross_gram.data(), n},
           false, 1.0F, {target.data(), n}, context_.threads);
    }
    for (std::uint64_t i = 0; residual > 0 && i < size; ++i) {
      target[i] += static_cast<float>(residual) * inputs_.residual[first * n + i];
    }
    const Rows slab{count, pruned.subspan(first * n, size), mask.subspan(first * n, size), {target.data(), size}};
    if (options_.kind == Refit::scale) {
      scale_rows(metric, slab, context_.threads);
      continue;
    }
    const Outcome outcome = solve_rows(metric, slab, options_.tolerance, options_.iterations, context_.threads);
    all.iterations = std::max(all.iterations, outcome.iterations);
    all.unfinished += outcome.unfinished;
  }
  if (all.unfinished == 0) return;
  record.notes.push_back(fmt::format("refit: {} of {} rows did not reach a residual of {:.3g} in {} iterations",
                                     all.unfinished, rows, options_.tolerance, all.iterations));
}

}  // namespace refit

CalibrationNeeds refit_needs(const RefitOptions& options) {
  CalibrationNeeds needs;
  needs.gram = options.kind != Refit::none;
  needs.cross_gram = options.kind != Refit::none && options.asymmetric > 0;
  needs.residual = options.kind != Refit::none && options.residual > 0;
  return needs;
}

void refit_weights(std::span<float> pruned, std::span<const float> original, std::span<const std::uint8_t> mask,
                   std::uint64_t rows, const InputStatistics& inputs, const RefitOptions& options,
                   const RunContext& context, SolveRecord& record) {
  refit::check(options);
  const std::uint64_t size = rows * inputs.cols;
  if (pruned.size() != size || original.size() != size || mask.size() != size) {
    throw Error(ErrorCode::usage, fmt::format("{} pruned, {} original weights and {} places of a mask are not {} x {}",
                                              pruned.size(), original.size(), mask.size(), rows, inputs.cols));
  }
  if (options.kind != Refit::none) refit::Refitter(inputs, options, context).run(pruned, original, mask, rows, record);
}

void correct_bias(std::span<float> bias, std::span<const float> original, std::span<const float> pruned,
                  std::span<const float> mean, int threads) {
  const std::uint64_t rows = bias.size(), cols = mean.size();
  if (original.size() != rows * cols || pruned.size() != rows * cols) {
    throw Error(ErrorCode::usage, fmt::format("{} original and {} pruned weights are not {} x {}", original.size(),
                                              pruned.size(), rows, cols));
  }
  std::vector<float> corrected(rows);
  rtn::parallel_for(threads, rows, [&](std::size_t r) {
    double sum = bias[r];
    for (std::uint64_t c = 0; c < cols; ++c) {
      sum += (static_cast<double>(original[r * cols + c]) - pruned[r * cols + c]) * mean[c];
    }
    corrected[r] = static_cast<float>(sum);
  });
  if (!gptq::all_finite(corrected)) throw Error(ErrorCode::numerical, "the corrected bias is not finite");
  std::copy(corrected.begin(), corrected.end(), bias.begin());
}

}  // namespace quant
