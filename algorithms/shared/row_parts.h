// Something found for each part of a weight's rows, on several threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/algorithm.h"
#include "quant/weight_rows.h"
#include "rtn/parallel_for.h"
#include "rtn/tensor_params.h"
#include "shared/checks.h"

namespace quant::shared {

/// body(rows, importance of them) for slices of about `weights` weights, whole units of rows that share a scale, in
/// their order: the same ones for any number of threads. `importance`: [cols], [rows * cols] or empty. Throws
/// Error{usage} for an importance of another kind, Error{numerical} for a weight that is not finite, and what `body`
/// throws.
template <class Part, class Body>
std::vector<Part> parts_of_rows(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                                int threads, std::uint64_t weights, const Body& body) {
  check_importance(importance, weight, true);
  const std::uint64_t rows = weight.rows(), cols = weight.cols();
  if (rows == 0 || cols == 0) return {};
  const std::uint64_t unit = std::max<std::uint64_t>(1, scale_row_alignment(args, cols));
  const std::uint64_t step = unit * std::max<std::uint64_t>(1, weights / (unit * cols));
  std::vector<Part> parts((rows + step - 1) / step);
  rtn::parallel_for(threads, parts.size(), [&](std::size_t p) {
    const std::uint64_t first = p * step, count = std::min(step, rows - first);
    const TensorView view = weight.slice_rows(first, count);
    if (find_non_finite(view)) rtn::reject_non_finite(weight, 0);
    const bool each = importance.size() > cols;
    parts[p] = body(view, each ? importance.subspan(first * cols, count * cols) : importance);
  });
  return parts;
}

/// The importance of `width` weights of row `row` from column `col` on, or nothing where there is none.
inline std::span<const float> importance_of(std::span<const float> importance, std::uint64_t cols, std::uint64_t row,
                                            std::uint64_t col, std::uint64_t width) {
  if (importance.empty()) return {};
  return importance.subspan((importance.size() > cols ? row * cols : 0) + col, width);
}

}  // namespace quant::shared
