#include <algorithm>
#include <cstddef>

#include "linalg/parallel.h"
#include "packed/packed_matrix.h"

namespace quant::packed {
namespace {

using linalg::pieces;

constexpr std::uint64_t kHalf = cpu::kChunk / 2;

// Columns of each group, in order.
std::vector<std::vector<std::int32_t>> columns_by_group(const QuantizedTensor& weight, std::uint64_t groups) {
  std::vector<std::vector<std::int32_t>> columns(groups);
  for (std::size_t c = 0; c < weight.cols; ++c) {
    columns[static_cast<std::size_t>(weight.group_index[c])].push_back(static_cast<std::int32_t>(c));
  }
  return columns;
}

std::uint64_t padded_width(std::uint64_t width) {
  return width <= kHalf ? kHalf : pieces(width, cpu::kChunk) * cpu::kChunk;
}

}  // namespace

std::optional<ColumnPlan> plan_columns(const QuantizedTensor& weight) {
  ColumnPlan plan;
  std::uint64_t width = weight.grid.col_extent;
  plan.groups = weight.grid.cols;
  if (weight.grid.flat != 0) {  // blocks that divide a row, or hold whole rows
    const std::uint64_t flat = weight.grid.flat;
    if (weight.cols % flat != 0 && flat % weight.cols != 0) return std::nullopt;
    width = std::min(flat, weight.cols);
    plan.groups = weight.cols / width;
  }
  std::vector<std::vector<std::int32_t>> by_group;
  if (!weight.group_index.empty()) {
    by_group = columns_by_group(weight, plan.groups);
    width = 0;
    for (const auto& columns : by_group) width = std::max<std::uint64_t>(width, columns.size());
  }
  width = std::min(width, weight.cols);
  const bool single = plan.groups == 1;
  plan.group_columns = single ? pieces(weight.cols, cpu::kChunk) * cpu::kChunk : padded_width(width);
  const std::uint64_t used = plan.groups * plan.group_columns;
  if (!single && used > 2 * (weight.cols + cpu::kChunk)) return std::nullopt;
  if (by_group.empty() && (single || width == plan.group_columns)) {
    plan.columns = pieces(weight.cols, cpu::kChunk) * cpu::kChunk;
    return plan;
  }
  plan.columns = pieces(used, cpu::kChunk) * cpu::kChunk;
  plan.source.assign(plan.columns, -1);
  for (std::uint64_t c = 0; by_group.empty() && c < weight.cols; ++c) {
    plan.source[c / width * plan.group_columns + c % width] = static_cast<std::int32_t>(c);
  }
  for (std::uint64_t g = 0; g < by_group.size(); ++g) {
    std::copy(by_group[g].begin(), by_group[g].end(),
              plan.source.begin() + static_cast<std::ptrdiff_t>(g * plan.group_columns));
  }
  return plan;
}

}  // namespace quant::packed
