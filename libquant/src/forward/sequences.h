// Where the sequences of a batch lie.
#pragma once

#include <cstdint>
#include <vector>

namespace quant::forward {

struct Sequence {
  std::uint64_t first = 0;     ///< row of its first token
  std::uint64_t tokens = 0;    ///< at least 1
  std::uint64_t position = 0;  ///< of its first token

  std::uint64_t end_position() const { return position + tokens; }
};

using Sequences = std::vector<Sequence>;

}  // namespace quant::forward
