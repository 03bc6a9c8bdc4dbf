// Which columns of a program's values are one channel: what an elementwise operation, a norm, a slice or a sum passes
// on can only be removed together.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/model_program.h"

namespace quant::structured {

class ChannelMap {
 public:
  explicit ChannelMap(const Program& program);

  /// The channel of a column; equal for columns that must be removed together. Less than size().
  std::uint32_t channel(ValueId value, std::uint64_t column) const {
    return roots_[first_[static_cast<std::size_t>(value)] + column];
  }
  std::size_t size() const { return roots_.size(); }

 private:
  std::vector<std::size_t> first_;  // of each value's columns
  std::vector<std::uint32_t> roots_;
};

}  // namespace quant::structured
