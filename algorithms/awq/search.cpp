// The search for factors.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/awq.h"
#include "quant/error.h"
#include "rtn/parallel_for.h"
#include "smoothing/channels.h"
#include "smoothing/loss.h"

namespace quant {
namespace {

constexpr double kSmallestFactor = 1e-4;
constexpr std::uint64_t kRowsPerTask = 64;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::usage, "AWQ: " + what); }

/// The largest magnitude of each scale of a reader: [grid rows, grid cols].
std::vector<float> scale_absmax(const LinearTask& task, const ScaleGrid& grid) {
  std::vector<float> largest(grid.rows * grid.cols, 0.0F);
  for (std::uint64_t r = 0; r < task.rows; ++r) {
    float* row = largest.data() + r / grid.row_extent * grid.cols;
    for (std::uint64_t c = 0; c < task.cols; ++c) {
      float& one = row[c / grid.col_extent];
      one = std::max(one, std::fabs(task.weight[r * task.cols + c]));
    }
  }
  return largest;
}

/// Adds sum over rows of |w| / (absmax of its group + 1e-6) to `sums`, in an order that the rows alone decide.
void add_normalized(const LinearTask& task, std::vector<double>& sums, int threads) {
  const ScaleGrid grid = scale_grid(task.args, task.rows, task.cols);
  const std::vector<float> largest = scale_absmax(task, grid);
  const std::uint64_t tasks = (task.rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<std::vector<double>> parts(tasks);
  rtn::parallel_for(threads, tasks, [&](std::size_t number) {
    std::vector<double>& part = parts[number];
    part.assign(task.cols, 0.0);
    for (std::uint64_t r = number * kRowsPerTask; r < std::min(task.rows, (number + 1) * kRowsPerTask); ++r) {
      const float* row = largest.data() + r / grid.row_extent * grid.cols;
      for (std::uint64_t c = 0; c < task.cols; ++c) {
        part[c] += static_cast<double>(std::fabs(task.weight[r * task.cols + c])) /
                   (static_cast<double>(row[c / grid.col_extent]) + 1e-6);
      }
    }
  });
  for (const auto& part : parts) {
    for (std::uint64_t c = 0; c < task.cols; ++c) sums[c] += part[c];
  }
}

void check_inputs(const InputStatistics& inputs, AwqLoss loss) {
  if (inputs.mean_abs.size() != inputs.cols) refuse("the mean magnitudes of the inputs are needed");
  if (loss == AwqLoss::gram && inputs.gram.empty()) refuse("the loss 'gram' needs the Gram matrix of the inputs");
  if (loss == AwqLoss::outputs && inputs.rows.empty()) refuse("the loss 'outputs' needs sampled rows of the inputs");
}

void stop_if_asked(const RunContext& context) {
  if (context.stop != nullptr && *context.stop) throw Error(ErrorCode::interrupted, "stopped during an AWQ search");
}

}  // namespace

std::vector<AwqPoint> awq_grid(DuoScaling duo, int n_grid) {
  if (n_grid < 3) refuse(fmt::format("n_grid is {}, it must be at least 3", n_grid));
  std::vector<AwqPoint> points = {{0.0, false, true}};
  const int ratios = duo == DuoScaling::no ? n_grid : duo == DuoScaling::yes ? n_grid - 1 : std::max(2, n_grid / 2);
  for (int i = 0; i < ratios; ++i) {
    const double ratio = static_cast<double>(i) / (ratios - 1);
    if (duo != DuoScaling::yes && i > 0) points.push_back({ratio, false, false});  // x^0 is the identity
    if (duo != DuoScaling::no) points.push_back({ratio, true, false});
  }
  return points;
}

std::vector<double> awq_weight_means(const SmoothingGroup& group, int threads) {
  std::vector<double> sums(group.balance.empty() ? 0 : group.balance.front().cols, 0.0);
  std::uint64_t rows = 0;
  for (const LinearTask& reader : group.balance) {
    if (!reader.quantized) continue;
    add_normalized(reader, sums, threads);
    rows += reader.rows;
  }
  for (double& sum : sums) sum /= static_cast<double>(std::max<std::uint64_t>(1, rows));
  return sums;
}

std::vector<float> awq_factors(std::span<const double> input_means, std::span<const double> weight_means,
                               double ratio) {
  if (!weight_means.empty() && weight_means.size() != input_means.size()) {
    refuse(fmt::format("{} columns of inputs and {} of weights", input_means.size(), weight_means.size()));
  }
  std::vector<double> raw(input_means.size(), 0.0);
  double largest = 0;
  double smallest = std::numeric_limits<double>::infinity();
  for (std::size_t c = 0; c < raw.size(); ++c) {
    if (!(input_means[c] > 0)) continue;
    raw[c] = std::pow(input_means[c], ratio);
    if (!weight_means.empty()) raw[c] /= std::pow(weight_means[c], 1 - ratio) + 1e-4;
    raw[c] = std::max(raw[c], kSmallestFactor);
    largest = std::max(largest, raw[c]);
    smallest = std::min(smallest, raw[c]);
  }
  const double middle = std::sqrt(largest * smallest);
  std::vector<float> factors(raw.size(), 1.0F);
  for (std::size_t c = 0; c < raw.size(); ++c) {
    const auto s = static_cast<float>(raw[c] / middle);
    if (std::isfinite(s) && s > 0) factors[c] = s;
  }
  return factors;
}

AwqResult awq_search(const SmoothingGroup& group, const InputStatistics& inputs, const AwqOptions& options,
                     const RunContext& context) {
  smoothing::check_group(group, inputs);
  check_inputs(inputs, options.loss);
  std::vector<double> means(inputs.mean_abs.begin(), inputs.mean_abs.end());
  smoothing::pool_channels(group, smoothing::Pool::mean, means);
  std::vector<double> weights;
  if (options.duo_scaling != DuoScaling::no) {
    weights = awq_weight_means(group, context.threads);
    smoothing::pool_channels(group, smoothing::Pool::mean, weights);
  }
  const auto loss = options.loss == AwqLoss::gram ? smoothing::make_gram_loss(group, inputs, context.threads)
                                                  : smoothing::make_output_loss(group, inputs, context.threads);
  AwqResult best;
  for (const AwqPoint& point : awq_grid(options.duo_scaling, options.n_grid)) {
    stop_if_asked(context);
    std::vector<float> factors;
    if (!point.identity) {
      factors =
          awq_factors(means, point.duo ? std::span<const double>(weights) : std::span<const double>(), point.ratio);
    }
    const double found = loss->of(factors);
    if (point.identity) {
      best = {{}, point, found, found};
    } else if (found < best.loss) {
      best = {std::move(factors), point, found, best.loss_unscaled};
    }
  }
  return best;
}

}  // namespace quant
