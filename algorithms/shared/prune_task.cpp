#include "shared/prune_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/error.h"
#include "quant/tensor.h"
#include "rtn/parallel_for.h"
#include "shared/checks.h"

namespace quant::shared {
namespace {

constexpr std::uint64_t kWeightsPerTask = std::uint64_t{1} << 16;

// body(first, end) for pieces of the weights.
template <class Body>
void each_piece(std::uint64_t count, int threads, const Body& body) {
  rtn::parallel_for(threads, (count + kWeightsPerTask - 1) / kWeightsPerTask, [&](std::size_t piece) {
    body(piece * kWeightsPerTask, std::min(count, (piece + 1) * kWeightsPerTask));
  });
}

bool finite_and_positive(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return value >= 0 && std::isfinite(value); });
}

std::vector<float> mean_squares(const InputStatistics& inputs) {
  const std::uint64_t n = inputs.cols;
  if (inputs.square.size() == n) return inputs.square;
  if (n == 0 || inputs.gram.size() != n * n) return {};
  std::vector<float> squares(n);
  // A sum of squares is never negative but for rounding.
  for (std::uint64_t c = 0; c < n; ++c) squares[c] = inputs.gram[c * n + c] < 0 ? 0 : inputs.gram[c * n + c];
  return squares;
}

}  // namespace

void begin_pruning(PruneTask& task, const RunContext& context, bool keep_zeros) {
  if (context.stop != nullptr && context.stop->load()) {
    throw Error(ErrorCode::interrupted, "stopped while pruning " + task.module);
  }
  const std::uint64_t count = task.rows * task.cols;
  if (task.weight.size() != count || task.mask.size() != count) {
    throw Error(ErrorCode::usage, fmt::format("{}: {} weights and {} places of a mask are not {} x {}", task.module,
                                              task.weight.size(), task.mask.size(), task.rows, task.cols));
  }
  if (!task.original.empty() && task.original.size() != count) {
    throw Error(ErrorCode::usage, fmt::format("{}: {} original weights are not {} x {}", task.module,
                                              task.original.size(), task.rows, task.cols));
  }
  if (const auto problem = contradiction(task.pattern, task.rows, task.cols)) {
    throw Error(ErrorCode::usage, task.module + ": " + *problem);
  }
  require_finite(f32_view(task.weight, task.rows, task.cols));
  each_piece(count, context.threads, [&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t i = first; i < end; ++i) {
      const bool kept = task.mask[i] != 0 && !(keep_zeros && task.weight[i] == 0);
      task.mask[i] = kept ? 1 : 0;
      task.weight[i] = kept ? task.weight[i] : 0.0F;
    }
  });
}

void require_inputs(const PruneTask& task, const InputStatistics& inputs) {
  if (task.cols == inputs.cols) return;
  throw Error(ErrorCode::usage,
              fmt::format("{} has {} columns; its inputs have {} channels", task.module, task.cols, inputs.cols));
}

void clear_removed(const PruneTask& task, int threads) {
  each_piece(task.weight.size(), threads, [&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t i = first; i < end; ++i) task.weight[i] = task.mask[i] != 0 ? task.weight[i] : 0.0F;
  });
}

std::vector<float> input_norms(const InputStatistics& inputs) {
  if (inputs.tokens == 0) return {};
  std::vector<float> norms = mean_squares(inputs);
  if (!finite_and_positive(norms)) return {};
  for (float& value : norms) value = std::sqrt(value);
  return norms;
}

std::string lack_of_norms(const InputStatistics& inputs) {
  if (inputs.tokens == 0) return "no calibration token reached it";
  return mean_squares(inputs).empty() ? "there are no mean squares of its inputs"
                                      : "the mean squares of its inputs are not finite";
}

PrunedWeight prune_weight(const Sparsifier& sparsifier, std::span<const float> weight, std::uint64_t rows,
                          std::uint64_t cols, const InputStatistics& inputs, const SparsityPattern& pattern,
                          int threads) {
  PrunedWeight result;
  result.values.assign(weight.begin(), weight.end());
  result.mask.assign(weight.size(), 1);
  PruneTask task;
  task.module = "the weight";
  task.rows = rows;
  task.cols = cols;
  task.weight = result.values;
  task.mask = result.mask;
  task.pattern = pattern;
  RunContext context;
  context.threads = threads;
  sparsifier.prune({&task, 1}, inputs, context);
  result.record = std::move(task.record);
  return result;
}

}  // namespace quant::shared
