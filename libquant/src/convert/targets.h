// What each linear of a checkpoint becomes in another layout.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/convert.h"

namespace quant::convert {

struct Target {
  const Layout* layout = nullptr;  ///< the other one; dense_layout() for pruned weights that have no codes
  Scheme scheme;                   ///< in the other layout, its format and inputs included
  LinearShape shape;               ///< with the type that decides the layout's own type of scales
  std::string reason;              ///< why its values must be rounded again; empty: codes are moved
  bool only_scales = false;        ///< with a reason: scales alone are rounded to the layout's type, and codes moved
};

/// The targets of all linears, in their order. Reads all scales and zero points where the layout stores scales in a
/// narrower type. `notes` get what is left out. Throws Error{unsupported, "NotExact"} where something must be rounded
/// again and there is no requantizer, or cannot be stored at all.
std::vector<Target> find_targets(const LogicalTensors& source, const LayoutConversionOptions& options,
                                 std::vector<std::string>& notes);

/// Rows of `linear` that are read, moved and written at a time: whole units of both layouts, about a million values.
std::uint64_t rows_at_once(const LogicalTensors& source, const LogicalTensor& tensor, const Target& target);

}  // namespace quant::convert
