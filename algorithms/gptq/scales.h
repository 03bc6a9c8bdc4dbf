// Scales of a slab of rows, chosen by the rules and observers of round to nearest.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/algorithm.h"
#include "rtn/rules.h"
#include "sweep.h"

namespace quant::gptq {

/// What chooses the scales of a task.
struct ScaleRule {
  QuantArgs args;  ///< the scheme's, with the observer that is used
  DType scale_dtype = DType::F32;
  TensorParams params;            ///< complete
  std::vector<float> importance;  ///< of columns, or empty
};

/// The scheme's own rule (ScaleSearch::none), or the least squared error weighted by `importance`.
ScaleRule make_scale_rule(const QuantArgs& args, DType scale_dtype, const TensorParams& params, ScaleSearch search,
                          std::span<const float> importance);

/// Codes rows [first_row, first_row + rows) of `out` by rounding `values` [rows, cols] to nearest: exactly what the
/// algorithm `rtn` does. first_row and rows are multiples of the rows that share a scale, except at the end.
void round_to_nearest(const ScaleRule& rule, std::span<const float> values, std::uint64_t first_row, std::uint64_t rows,
                      QuantizedTensor& out, int threads);

/// The scales of one group of columns: those of `values` [rows, cols] written to column `group` of out's scales.
/// Strategies with one row of scales per row of weights only.
void fit_group(const ScaleRule& rule, std::span<const float> values, std::uint64_t first_row, std::uint64_t rows,
               std::uint64_t first_col, std::uint64_t group, QuantizedTensor& out, int threads);

/// Multiplies stored scales by `factor` and rounds them to the stored type; what would become 0 stays.
void multiply_scales(const rtn::Rules& rules, float factor, std::span<float> scales);

/// Copies the scales of out's rows [first_row, first_row + grid.rows) (one group of columns, or all) to `grid`.
void load_grid(const rtn::Rules& rules, const QuantizedTensor& out, std::uint64_t first_row, SlabGrid& grid);
void load_group(const rtn::Rules& rules, const QuantizedTensor& out, std::uint64_t first_row, std::uint64_t group,
                SlabGrid& grid);

}  // namespace quant::gptq
