#include "scales.h"

#include <algorithm>
#include <cmath>

#include "quant/kernels.h"
#include "quant/tensor.h"
#include "rtn/coder.h"
#include "rtn/parallel_for.h"

namespace quant::gptq {
namespace {

// Rows per task of a loop: whole rows of scales, and enough weights to be worth a task.
std::uint64_t rows_per_task(Strategy strategy, const ScaleGrid& grid, std::uint64_t cols) {
  const std::uint64_t unit = strategy == Strategy::block ? grid.row_extent : 1;
  return unit * std::max<std::uint64_t>(1, (1U << 16) / std::max<std::uint64_t>(1, unit * cols));
}

// body(coder, first, count) for pieces of rows.
template <class Body>
void each_piece(std::uint64_t rows, std::uint64_t step, int threads, const Body& body) {
  rtn::parallel_for(
      threads, (rows + step - 1) / step, [] { return rtn::Coder(); },
      [&](rtn::Coder& coder, std::size_t t) { body(coder, t * step, std::min(step, rows - t * step)); },
      [](rtn::Coder&) {});
}

}  // namespace

ScaleRule make_scale_rule(const QuantArgs& args, DType scale_dtype, const TensorParams& params, ScaleSearch search,
                          std::span<const float> importance) {
  ScaleRule rule{args, scale_dtype, params, {}};
  if (search != ScaleSearch::diagonal) return rule;
  rule.args.observer = "mse_search";
  for (auto it = rule.args.observer_kwargs.begin(); it != rule.args.observer_kwargs.end();) {
    const bool common = it->first == "symmetric_range" || it->first == "float8_format";
    it = common ? std::next(it) : rule.args.observer_kwargs.erase(it);
  }
  rule.importance.assign(importance.begin(), importance.end());
  return rule;
}

void round_to_nearest(const ScaleRule& rule, std::span<const float> values, std::uint64_t first_row, std::uint64_t rows,
                      QuantizedTensor& out, int threads) {
  const std::uint64_t cols = out.cols;
  const TensorView view = f32_view(values, rows, cols);
  const bool single = rule.args.strategy == Strategy::tensor;
  each_piece(rows, rows_per_task(out.args.strategy, out.grid, cols), threads,
             [&](rtn::Coder& coder, std::uint64_t first, std::uint64_t count) {
               const std::uint64_t row = first_row + first;
               float scale = 0;  // all pieces find the same
               std::int8_t zero = 0;
               const std::uint64_t at = row / out.grid.row_extent * out.grid.cols;
               std::int8_t* zeros = out.zero_points.empty() ? nullptr : single ? &zero : out.zero_points.data() + at;
               coder.code(view.slice_rows(first, count), row, rule.args, rule.scale_dtype, rule.params, rule.importance,
                          {out.codes.data() + row * cols, single ? &scale : out.scales.data() + at, zeros}, {});
               if (!single || row != 0) return;
               out.scales[0] = scale;
               if (zeros != nullptr) out.zero_points[0] = zero;
             });
}

void fit_group(const ScaleRule& rule, std::span<const float> values, std::uint64_t first_row, std::uint64_t rows,
               std::uint64_t first_col, std::uint64_t group, QuantizedTensor& out, int threads) {
  const std::uint64_t cols = values.size() / rows;
  const std::span<const float> importance =
      rule.importance.empty() ? std::span<const float>() : std::span(rule.importance).subspan(first_col, cols);
  const TensorView view = f32_view(values, rows, cols);
  each_piece(rows, std::max<std::uint64_t>(1, (1U << 16) / cols), threads,
             [&](rtn::Coder& coder, std::uint64_t first, std::uint64_t count) {
               std::vector<std::int8_t> codes(count * cols), zeros(count);
               std::vector<float> scales(count);
               coder.code(view.slice_rows(first, count), first_row + first, rule.args, rule.scale_dtype, rule.params,
                          importance, {codes.data(), scales.data(), out.zero_points.empty() ? nullptr : zeros.data()},
                          {});
               for (std::uint64_t r = 0; r < count; ++r) {
                 const std::uint64_t at = (first_row + first + r) * out.grid.cols + group;
                 out.scales[at] = scales[r];
                 if (!out.zero_points.empty()) out.zero_points[at] = zeros[r];
               }
             });
}

void multiply_scales(const rtn::Rules& rules, float factor, std::span<float> scales) {
  for (float& scale : scales) {
    float moved = scale * factor;
    if (!rules.mx) kernels().round_values(rules.round, &moved, 1);  // MX: the factors are powers of two
    if (moved != 0 && std::isfinite(moved) && (!rules.mx || moved >= 0x1p-127F)) scale = moved;
  }
}

void load_group(const rtn::Rules& rules, const QuantizedTensor& out, std::uint64_t first_row, std::uint64_t group,
                SlabGrid& grid) {
  for (std::uint64_t r = 0; r < grid.rows; ++r) {
    const std::uint64_t from = (first_row + r) / out.grid.row_extent * out.grid.cols + group;
    const std::uint64_t to = group * grid.rows + r;
    rtn::effective_scales(rules, {out.scales.data() + from, 1}, {grid.scales.data() + to, 1});
    grid.zero_points[to] = out.zero_points.empty() ? 0.0F : static_cast<float>(out.zero_points[from]);
  }
}

void load_grid(const rtn::Rules& rules, const QuantizedTensor& out, std::uint64_t first_row, SlabGrid& grid) {
  for (std::uint64_t g = 0; g < out.grid.cols; ++g) load_group(rules, out, first_row, g, grid);
}

}  // namespace quant::gptq
