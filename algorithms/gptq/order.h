// In which order the columns of a weight are coded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/gptq.h"
#include "quant/scheme.h"

namespace quant::gptq {

struct Order {
  std::vector<std::uint32_t> columns;  ///< position -> column
  std::vector<std::uint32_t> groups;   ///< position -> column of the scale matrix
  bool adjoining = true;               ///< the positions of each group are neighbours
  bool own_groups = false;             ///< groups are counted in positions: ColumnOrder::group

  friend bool operator==(const Order&, const Order&) = default;
};

/// `diagonal` of H [cols]: columns of large values come first, of equal ones the lower number.
Order make_order(ColumnOrder kind, std::span<const float> diagonal, std::uint64_t group_extent);

/// What the scheme's own act-order says, else the option.
ColumnOrder order_kind(const QuantArgs& args, const GptqOptions& options);

}  // namespace quant::gptq
