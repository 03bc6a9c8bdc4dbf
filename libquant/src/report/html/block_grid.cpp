#include "report/html/block_grid.h"

#include <algorithm>

namespace quant::report {

BlockGrid make_block_grid(const Page& page) {
  BlockGrid grid;
  const std::vector<Place>& places = page.grouping.places;
  for (const Place& place : places) {
    if (place.block) grid.blocks.push_back(*place.block);
  }
  std::sort(grid.blocks.begin(), grid.blocks.end());
  grid.blocks.erase(std::unique(grid.blocks.begin(), grid.blocks.end()), grid.blocks.end());
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (!places[i].block) {
      grid.loose.push_back(i);
      continue;
    }
    const auto at = std::lower_bound(grid.blocks.begin(), grid.blocks.end(), *places[i].block) - grid.blocks.begin();
    Cell& cell = grid.cells[{places[i].kind, static_cast<std::size_t>(at)}];
    const double sqnr = page.layers[i].sqnr_db;
    cell.low = cell.layers == 0 ? sqnr : std::min(cell.low, sqnr);
    cell.high = cell.layers == 0 ? sqnr : std::max(cell.high, sqnr);
    if (cell.layers == 0 || badness(page.report.layers[i].sums) > badness(page.report.layers[cell.worst].sums)) {
      cell.worst = i;
    }
    ++cell.layers;
    cell.sums += page.report.layers[i].sums;
  }
  return grid;
}

}  // namespace quant::report
