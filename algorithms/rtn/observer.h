// Observers: how the range of a group is chosen.
#pragma once

#include <vector>

#include "quant/kernel_table.h"
#include "quant/scheme.h"

namespace quant::rtn {

struct Observer {
  enum class Kind {
    minmax,
    percentile,  ///< ranks of the sorted values
    grid,        ///< range times expand * (1 - i / grid), the least sum of |error|^norm
    search       ///< more candidates around the best of that grid
  };
  Kind kind = Kind::minmax;
  double percentile = 0.9999;
  double norm = 2.4;
  PowerTable power{};
  std::vector<float> factors{1.0F};  ///< of the range: 1 first, then the grid; never empty

  bool searches() const { return kind == Kind::grid || kind == Kind::search; }
};

/// The observer that args.observer and args.observer_kwargs name. Throws Error{usage} for an unknown name or a value
/// that is out of range.
Observer make_observer(const QuantArgs& args);

}  // namespace quant::rtn
