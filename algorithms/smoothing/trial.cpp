#include "smoothing/trial.h"

#include <algorithm>

#include "quant/rtn.h"
#include "rtn/parallel_for.h"

namespace quant::smoothing {
namespace {

constexpr std::uint64_t kWeightsPerTask = std::uint64_t{1} << 16;

/// Whole rows per task, a multiple of the rows that share a scale.
std::uint64_t rows_per_task(const LinearTask& task) {
  const std::uint64_t unit = task.args.strategy == Strategy::block && task.args.block_structure
                                 ? std::max<std::uint64_t>(1, (*task.args.block_structure)[0])
                                 : 1;
  return unit * std::max<std::uint64_t>(1, kWeightsPerTask / std::max<std::uint64_t>(1, unit * task.cols));
}

struct Scratch {
  QuantizedTensor coded;
  std::vector<float> row;
};

/// The arguments that give rows of a weight what `args` give tokens.
QuantArgs as_rows(QuantArgs args) {
  if (args.strategy == Strategy::token) args.strategy = Strategy::channel;
  args.dynamic = Dynamic::no;
  args.observer.reset();  // the range of a token is that of its values
  args.actorder.reset();
  return args;
}

}  // namespace

void round_inputs(std::span<float> x, std::uint64_t cols, QuantArgs args, TensorParams fixed, int threads) {
  args = as_rows(std::move(args));
  const std::uint64_t rows = x.size() / cols;
  const auto rtn = make_rtn();
  if (!fixed.scale && !fixed.global_scale) fixed = rtn->prepare(f32_view(x, rows, cols), args, {}, threads);
  const DType scales = is_mx(args) ? DType::U8 : is_nvfp4(args) ? DType::F8_E4M3 : DType::F32;
  rtn::parallel_for(
      threads, rows, [] { return Scratch(); },
      [&](Scratch& scratch, std::size_t row) {
        const std::span<float> values = x.subspan(row * cols, cols);
        rtn->quantize_rows(f32_view(values, 1, cols), args, scales, fixed, {}, scratch.coded, {});
        dequantize_row(scratch.coded, 0, values);
      },
      [](Scratch&) {});
}

std::vector<float> importance_of(const LinearTask& task, const InputStatistics& inputs, std::span<const float> s) {
  std::vector<float> importance;
  if (task.args.observer != "imatrix_mse" || inputs.gram.empty()) return importance;
  importance.resize(inputs.cols);
  for (std::uint64_t c = 0; c < inputs.cols; ++c) {
    const float factor = s.empty() ? 1.0F : s[c];
    importance[c] = std::max(0.0F, inputs.gram[c * inputs.cols + c]) / (factor * factor);
  }
  return importance;
}

void rounding_error(const LinearTask& task, std::span<const float> s, std::span<const float> importance,
                    std::span<float> d, int threads) {
  const std::uint64_t cols = task.cols;
  const std::uint64_t step = rows_per_task(task);
  const std::uint64_t tasks = (task.rows + step - 1) / step;
  rtn::parallel_for(threads, tasks, [&](std::size_t number) {
    for (std::uint64_t r = number * step; r < std::min(task.rows, (number + 1) * step); ++r) {
      const float* in = task.weight.data() + r * cols;
      float* out = d.data() + r * cols;
      for (std::uint64_t c = 0; c < cols; ++c) out[c] = s.empty() ? in[c] : in[c] * s[c];
    }
  });
  const auto rtn = make_rtn();
  const TensorParams params = rtn->prepare(f32_view(d, task.rows, cols), task.args, importance, threads);
  const auto round_rows = [&](Scratch& scratch, std::size_t number) {
    const std::uint64_t first = number * step;
    const std::uint64_t count = std::min(step, task.rows - first);
    const std::span<float> slice = d.subspan(first * cols, count * cols);
    rtn->quantize_rows(f32_view(slice, count, cols), task.args, task.scale_dtype, params, importance, scratch.coded,
                       {});
    scratch.row.resize(cols);
    for (std::uint64_t r = 0; r < count; ++r) {
      dequantize_row(scratch.coded, r, scratch.row);
      const float* in = task.weight.data() + (first + r) * cols;
      float* out = slice.data() + r * cols;
      for (std::uint64_t c = 0; c < cols; ++c) out[c] = (s.empty() ? scratch.row[c] : scratch.row[c] / s[c]) - in[c];
    }
  };
  rtn::parallel_for(
      threads, tasks, [] { return Scratch(); }, round_rows, [](Scratch&) {});
}

}  // namespace quant::smoothing
