// The search for limits of weights.
#include <algorithm>
#include <cmath>

#include "quant/awq.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"
#include "smoothing/trial.h"

namespace quant {
namespace {

constexpr std::uint64_t kRowsPerTask = 64;

bool has_own_groups(const QuantArgs& args) {
  return args.strategy == Strategy::group || args.strategy == Strategy::channel;
}

/// One linear during its search. All buffers are [rows, cols] or [rows, groups].
class ClipSearch {
 public:
  ClipSearch(LinearTask& task, const InputStatistics& inputs, const RunContext& context)
      : task_(task), inputs_(inputs), context_(context), grid_(scale_grid(task.args, task.rows, task.cols)) {
    const std::uint64_t cells = task.rows * grid_.cols;
    original_.assign(task.weight.begin(), task.weight.end());
    clipped_.resize(original_.size());
    d_.resize(original_.size());
    product_.resize(original_.size());
    absmax_.resize(cells);
    factor_.assign(cells, 1.0F);
    error_.resize(cells);
    each_row([&](std::uint64_t r) {
      for (std::uint64_t c = 0; c < task_.cols; ++c) {
        float& one = absmax_[r * grid_.cols + c / grid_.col_extent];
        one = std::max(one, std::fabs(original_[r * task_.cols + c]));
      }
    });
  }

  std::uint64_t run(const AwqClipOptions& options) {
    const int steps = static_cast<int>(options.max_shrink * options.grid);
    for (int i = 0; i < steps; ++i) {
      if (context_.stop != nullptr && *context_.stop) {
        throw Error(ErrorCode::interrupted, "stopped during an AWQ clip search");
      }
      try_factor(1.0F - static_cast<float>(i) / static_cast<float>(options.grid), i == 0);
    }
    return apply();
  }

 private:
  template <class Body>
  void each_row(const Body& body) const {
    const std::uint64_t tasks = (task_.rows + kRowsPerTask - 1) / kRowsPerTask;
    rtn::parallel_for(context_.threads, tasks, [&](std::size_t number) {
      for (std::uint64_t r = number * kRowsPerTask; r < std::min(task_.rows, (number + 1) * kRowsPerTask); ++r) body(r);
    });
  }

  /// weights_out = the original, each group limited to limit(row, group).
  template <class Limit>
  void limit_weights(std::span<float> weights_out, const Limit& limit) const {
    each_row([&](std::uint64_t r) {
      for (std::uint64_t c = 0; c < task_.cols; ++c) {
        const float bound = limit(r * grid_.cols + c / grid_.col_extent);
        weights_out[r * task_.cols + c] = std::clamp(original_[r * task_.cols + c], -bound, bound);
      }
    });
  }

  /// d_ = the rounded `weights` - the original.
  void round_error(std::span<float> weights) {
    LinearTask trial = task_;
    trial.weight = weights;
    smoothing::rounding_error(trial, {}, smoothing::importance_of(task_, inputs_, {}), d_, context_.threads);
    each_row([&](std::uint64_t r) {
      for (std::uint64_t i = r * task_.cols; i < (r + 1) * task_.cols; ++i) d_[i] += weights[i] - original_[i];
    });
  }

  void try_factor(float factor, bool first) {
    limit_weights(clipped_, [&](std::uint64_t cell) { return factor * absmax_[cell]; });
    round_error(clipped_);
    for (std::uint64_t g = 0; g < grid_.cols; ++g) {
      const std::uint64_t begin = g * grid_.col_extent;
      const std::uint64_t width = std::min(grid_.col_extent, task_.cols - begin);
      gemm(task_.rows, width, width, 1.0F, {d_.data() + begin, task_.cols},
           {inputs_.gram.data() + begin * task_.cols + begin, task_.cols}, false, 0.0F,
           {product_.data() + begin, task_.cols}, context_.threads);
    }
    each_row([&](std::uint64_t r) {
      for (std::uint64_t g = 0; g < grid_.cols; ++g) {
        double sum = 0;
        for (std::uint64_t c = g * grid_.col_extent; c < std::min(task_.cols, (g + 1) * grid_.col_extent); ++c) {
          sum += static_cast<double>(d_[r * task_.cols + c]) * static_cast<double>(product_[r * task_.cols + c]);
        }
        const std::uint64_t cell = r * grid_.cols + g;
        if (!first && !(sum < error_[cell])) continue;
        error_[cell] = sum;
        factor_[cell] = factor;
      }
    });
  }

  std::vector<double> row_errors(std::span<float> weights) {
    round_error(weights);
    std::vector<double> errors(task_.rows);
    quadratic_forms(d_, task_.rows, inputs_.gram, task_.cols, errors, context_.threads);
    return errors;
  }

  std::uint64_t apply() {
    limit_weights(clipped_, [&](std::uint64_t cell) { return factor_[cell] * absmax_[cell]; });
    const std::vector<double> after = row_errors(clipped_);
    const std::vector<double> before = row_errors(original_);
    std::uint64_t limited = 0;
    for (std::uint64_t r = 0; r < task_.rows; ++r) {
      if (!(after[r] < before[r])) continue;
      std::copy_n(clipped_.data() + r * task_.cols, task_.cols, task_.weight.data() + r * task_.cols);
      for (std::uint64_t g = 0; g < grid_.cols; ++g) limited += factor_[r * grid_.cols + g] < 1.0F ? 1U : 0U;
    }
    return limited;
  }

  LinearTask& task_;
  const InputStatistics& inputs_;
  const RunContext& context_;
  ScaleGrid grid_;
  std::vector<float> original_, clipped_, d_, product_, absmax_, factor_;
  std::vector<double> error_;
};

}  // namespace

std::uint64_t awq_clip(LinearTask& task, const InputStatistics& inputs, const AwqClipOptions& options,
                       const RunContext& context) {
  if (options.grid < 1 || !(options.max_shrink >= 0 && options.max_shrink < 1)) {
    throw Error(ErrorCode::usage, "AWQ: the clip grid must be positive and the largest shrink in [0, 1)");
  }
  if (inputs.gram.size() != task.cols * task.cols || task.weight.size() != task.rows * task.cols) {
    throw Error(ErrorCode::usage, "AWQ: clipping needs the Gram matrix of the linear's inputs");
  }
  if (!task.quantized || task.weight.empty() || !has_own_groups(task.args)) return 0;
  return ClipSearch(task, inputs, context).run(options);
}

}  // namespace quant
