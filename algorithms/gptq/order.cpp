#include "order.h"

#include <algorithm>
#include <numeric>

namespace quant::gptq {
namespace {

using Numbers = std::vector<std::uint32_t>;

// Groups in descending order of their largest value, in each the columns in descending order.
Numbers group_aware(std::span<const float> diagonal, std::uint64_t extent) {
  const std::uint64_t cols = diagonal.size();
  const auto larger = [&](std::uint32_t a, std::uint32_t b) { return diagonal[a] > diagonal[b]; };
  Numbers columns(cols);
  std::iota(columns.begin(), columns.end(), 0U);
  Numbers firsts;
  for (std::uint64_t first = 0; first < cols; first += extent) {
    const auto begin = columns.begin() + static_cast<std::ptrdiff_t>(first);
    std::stable_sort(begin, begin + static_cast<std::ptrdiff_t>(std::min(extent, cols - first)), larger);
    firsts.push_back(static_cast<std::uint32_t>(first));
  }
  std::stable_sort(firsts.begin(), firsts.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return larger(columns[a], columns[b]); });
  Numbers ordered;
  ordered.reserve(cols);
  for (const std::uint32_t first : firsts) {
    const std::uint64_t end = std::min<std::uint64_t>(cols, first + extent);
    for (std::uint64_t i = first; i < end; ++i) ordered.push_back(columns[i]);
  }
  return ordered;
}

}  // namespace

Order make_order(ColumnOrder kind, std::span<const float> diagonal, std::uint64_t group_extent) {
  Order order;
  const std::uint64_t cols = diagonal.size();
  order.columns.resize(cols);
  std::iota(order.columns.begin(), order.columns.end(), 0U);
  if (kind == ColumnOrder::group_aware) {
    order.columns = group_aware(diagonal, group_extent);
  } else if (kind != ColumnOrder::none) {
    std::stable_sort(order.columns.begin(), order.columns.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return diagonal[a] > diagonal[b]; });
  }
  order.own_groups = kind == ColumnOrder::group && group_extent < cols;
  order.adjoining = kind != ColumnOrder::weight || group_extent >= cols;
  order.groups.resize(cols);
  for (std::uint64_t p = 0; p < cols; ++p) {
    order.groups[p] = static_cast<std::uint32_t>((order.own_groups ? p : order.columns[p]) / group_extent);
  }
  return order;
}

ColumnOrder order_kind(const QuantArgs& args, const GptqOptions& options) {
  ColumnOrder kind = options.order;
  if (args.actorder) {
    kind = *args.actorder == ActOrder::group    ? ColumnOrder::group
           : *args.actorder == ActOrder::weight ? ColumnOrder::weight
                                                : ColumnOrder::none;
  }
  // Only groups of columns with scales of their own can follow the order.
  if (kind == ColumnOrder::group && args.strategy != Strategy::group) return ColumnOrder::weight;
  return kind;
}

}  // namespace quant::gptq
