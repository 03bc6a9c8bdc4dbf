// Layers arranged by block and kind, for the chart along the model and the heat map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "report/html/parts.h"

namespace quant::report {

/// All layers of one kind in one block: usually one, with experts many.
struct Cell {
  ErrorSums sums;
  std::size_t layers = 0;
  std::size_t worst = 0;  ///< index of the layer with the largest NMSE
  double low = 0;         ///< smallest and largest SQNR of its layers
  double high = 0;
};

struct BlockGrid {
  std::vector<std::uint64_t> blocks;                          ///< numbers that occur, ascending
  std::map<std::pair<std::size_t, std::size_t>, Cell> cells;  ///< (kind, index into blocks)
  std::vector<std::size_t> loose;                             ///< layers without a block, in model order
};
BlockGrid make_block_grid(const Page& page);

}  // namespace quant::report
