#include "plan/resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "plan/algorithm_set.h"
#include "plan/pruning.h"
#include "plan/sensitivities.h"
#include "quant/error.h"

namespace quant {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;
// Heap of the program, its libraries and the report of a small model, measured without the threads' shares.
constexpr std::uint64_t kBaseMemory = 9 * kMiB;
constexpr std::uint64_t kLargestSlice = 2048U << 10U;
constexpr std::uint64_t kSmallestSlice = 16U << 10U;
// Page-cache writing; only orders the estimate.
constexpr double kWriteBytesPerSecond = 1.5e9;

using Algorithms = std::vector<ModifierAlgorithm>;

std::uint64_t memory_of_slice(const Plan& plan, const Algorithms& algorithms, const PlannedLinear& linear) {
  const std::uint64_t rows = std::min(slice_rows(plan, linear), linear.shape.rows);
  const std::uint64_t weights = rows * linear.shape.cols;
  const QuantArgs args = weight_args(plan, linear);
  const ScaleGrid grid = scale_grid(args, rows, linear.shape.cols);
  const std::uint64_t scales = grid.rows * grid.cols;
  const std::uint64_t tables =
      has_learned_codebook(args) ? (grid.count() * 6) << static_cast<unsigned>(args.num_bits) : 0;
  const std::uint64_t sparse = sparse_count(args, rows, linear.shape.cols);
  // Beside each sparse weight: the dense part's own copies of weights and of importance.
  const std::uint64_t apart = sparse * 20 + (sparse > 0 ? 2 * weights * sizeof(float) : 0);
  const std::uint64_t sensitivities =
      linear.sensitivity == nullptr
          ? 0
          : sizeof(float) * (linear.sensitivity->shape.size() == 1 ? linear.shape.cols : weights);
  const Quantizer* quantizer = algorithms[linear.modifier].quantizer;
  const std::uint64_t own = quantizer == nullptr ? 0 : quantizer->slice_bytes(args, rows, linear.shape.cols);
  // codes, packed bytes, scales and zero points (unpacked and packed), error sums, two float rows of every block row
  return weights + weights * static_cast<std::uint64_t>(args.num_bits) / 8 + tables + apart + sensitivities + own +
         scales * 24 + rows * sizeof(ErrorSums) +
         2 * sizeof(float) * linear.shape.cols *
             std::max<std::uint64_t>(grid.row_extent < rows ? grid.row_extent : 1, 1);
}

// What is found before the first row is coded takes memory of its own, one linear after the other.
std::uint64_t memory_of_prepare(const Plan& plan, const Algorithms& algorithms, const PlannedLinear& linear,
                                int threads) {
  const Quantizer* quantizer = algorithms[linear.modifier].quantizer;
  if (quantizer == nullptr) return 0;
  const LinearShape& shape = linear.shape;
  return quantizer->prepare_bytes(weight_args(plan, linear), shape.dtype, shape.rows, shape.cols, threads);
}

// Of linears that are pruned without data: many small ones together, large ones one by one (kPrunedBytes). Others
// count where statistics do.
std::uint64_t memory_of_pruning(const Plan& plan, const Algorithms& algorithms, int threads) {
  std::uint64_t all = 0;
  std::uint64_t largest = 0;
  std::uint64_t batch = 0;
  std::uint64_t scratch = 0;
  for (const PlannedLinear& linear : plan.linears) {
    const auto needs_data = [&](std::size_t modifier) {
      return algorithms[modifier].own != nullptr && algorithms[modifier].own->needs().any();
    };
    bool calibrated = needs_data(linear.modifier);
    for (const PlannedPruning& pruning : linear.pruning) calibrated = calibrated || needs_data(pruning.modifier);
    if (calibrated || linear.pruning.empty()) continue;
    const std::uint64_t own = pruned_bytes(linear);
    all += own;
    largest = std::max(largest, own);
    batch = std::max(batch, own * kPrunedBytes / std::max<std::uint64_t>(linear.weight->bytes, 1));
    scratch = std::max(scratch, pruning_scratch(linear, algorithms, threads));
  }
  return std::min(all, largest + batch) + scratch;
}

std::uint64_t memory_of_plan(const Plan& plan, const Algorithms& algorithms, int threads) {
  std::uint64_t slice = 0;
  std::uint64_t prepare = 0;
  std::uint64_t rows = 0;
  for (const PlannedLinear& linear : plan.linears) {
    std::uint64_t own = memory_of_prepare(plan, algorithms, linear, threads);
    if (prepares_with_sensitivities(plan, linear)) own += sizeof(float) * element_count(linear.sensitivity->shape);
    prepare = std::max(prepare, own);
    slice = std::max(slice, memory_of_slice(plan, algorithms, linear));
    rows += linear.shape.rows;
  }
  const std::uint64_t pruning = memory_of_pruning(plan, algorithms, threads);
  const std::uint64_t headers = 1024 * plan.checkpoint->tensors().size();
  // Arrays of the report: the result itself, the HDF5 image, and its copy on the way to the file.
  const std::uint64_t report = 3 * rows * sizeof(float);
  return kBaseMemory + static_cast<std::uint64_t>(threads) * (slice + kMiB) + prepare + pruning + report + 4 * headers;
}

// Seconds of one thread per weight for a scheme, measured on random weights.
double seconds_per_weight(const Plan& plan, const PlannedLinear& linear) {
  const RecipeModifier& modifier = plan.recipe.modifiers[linear.modifier];
  const ModifierAlgorithm algorithm = create_algorithm(modifier, *plan.registry);
  const Quantizer* quantizer = algorithm.quantizer;
  if (quantizer == nullptr) return 0;
  const QuantArgs args = weight_args(plan, linear);
  const std::uint64_t cols = std::min<std::uint64_t>(linear.shape.cols, 4096);
  const std::uint64_t rows = std::max<std::uint64_t>(1, (64U << 10U) / std::max<std::uint64_t>(cols, 1));
  std::vector<float> weights(rows * cols);
  std::minstd_rand random(1);
  for (float& w : weights) w = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  const TensorView view = f32_view(weights, rows, cols);
  const DType scale_type = layout_for(plan, linear).scale_dtype(args, linear.shape.dtype);
  std::vector<ErrorSums> errors(rows);
  QuantizedTensor out;
  const TensorParams params = quantizer->prepare(view, args, {}, 1);
  quantizer->quantize_rows(view, args, scale_type, params, {}, out, {errors, {}, {}});  // warms up
  const auto start = std::chrono::steady_clock::now();
  int rounds = 0;
  double elapsed = 0;
  while (rounds == 0 || (elapsed < 0.002 && rounds < 1000)) {
    quantizer->quantize_rows(view, args, scale_type, params, {}, out, {errors, {}, {}});
    ++rounds;
    elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return elapsed / rounds / static_cast<double>(rows * cols);
}

double estimate_seconds(const Plan& plan) {
  std::vector<double> rate(plan.groups.size(), -1);
  double work = 0;
  for (const PlannedLinear& linear : plan.linears) {
    double& seconds = rate[linear.scheme];
    if (seconds < 0) seconds = seconds_per_weight(plan, linear);
    work += seconds * static_cast<double>(linear.shape.rows * linear.shape.cols);
  }
  return work / plan.options.threads + static_cast<double>(plan.bytes_after) / kWriteBytesPerSecond;
}

}  // namespace

std::uint64_t slice_alignment(const Plan& plan, const PlannedLinear& linear) {
  const Scheme& scheme = plan.groups[linear.scheme].scheme;
  const std::uint64_t layout = std::max<std::uint64_t>(layout_for(plan, linear).row_alignment(scheme), 1);
  const std::uint64_t scales = scale_row_alignment(*scheme.weights, linear.shape.cols);
  return scales >= linear.shape.rows ? std::max<std::uint64_t>(linear.shape.rows, 1) : std::lcm(scales, layout);
}

std::uint64_t slice_rows(const Plan& plan, const PlannedLinear& linear) {
  const std::uint64_t unit = slice_alignment(plan, linear);
  const std::uint64_t wanted = plan.slice_weights / std::max<std::uint64_t>(linear.shape.cols, 1);
  return std::max<std::uint64_t>(1, wanted / unit) * unit;
}

namespace plan_detail {

void estimate_resources(Plan& plan, const Algorithms& algorithms) {
  int threads = plan.options.threads;
  if (threads <= 0) threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  plan.slice_weights = kLargestSlice;
  const std::uint64_t limit = plan.options.memory_bytes;
  while (limit != 0 && memory_of_plan(plan, algorithms, threads) > limit &&
         (plan.slice_weights > kSmallestSlice || threads > 1)) {
    if (plan.slice_weights > kSmallestSlice)
      plan.slice_weights /= 2;
    else
      threads = std::max(1, threads / 2);
  }
  plan.options.threads = threads;
  plan.peak_memory = memory_of_plan(plan, algorithms, threads);
  if (limit != 0 && plan.peak_memory > limit) {
    ++plan.input_problems;
    plan.problems.push_back(fmt::format("a memory limit of {:.1f} MB is too small: at least {:.1f} MB are needed",
                                        static_cast<double>(limit) / 1e6,
                                        static_cast<double>(plan.peak_memory) / 1e6 + 0.1));
  }
  if (plan.problems.empty()) plan.seconds_estimate = estimate_seconds(plan);
}

}  // namespace plan_detail
}  // namespace quant
