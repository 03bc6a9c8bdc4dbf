#include "sweep.h"

#include <algorithm>

#include "quant/linalg.h"
#include "rtn/parallel_for.h"
#include "tile.h"

namespace quant::gptq {
namespace {

// A tile of a block, columns one after the other: [block, kTileRows].
struct Tile {
  std::vector<float> values, errors, rounded;
  std::vector<std::int8_t> codes;

  explicit Tile(std::uint64_t block)
      : values(block * kTileRows), errors(block * kTileRows), rounded(kTileRows), codes(kTileRows) {}
};

void add_squares(const std::vector<float>& errors, std::uint64_t width, std::uint64_t count, double* losses) {
  float sums[kTileRows] = {};
  for (std::uint64_t k = 0; k < width; ++k) {
    const float* own = errors.data() + k * kTileRows;
    for (std::uint64_t r = 0; r < kTileRows; ++r) sums[r] += own[r] * own[r];
  }
  for (std::uint64_t r = 0; r < count; ++r) losses[r] += sums[r];
}

}  // namespace

void SlabGrid::resize(std::uint64_t groups, std::uint64_t slab_rows) {
  rows = slab_rows;
  scales.assign(groups * slab_rows, 1.0F);
  zero_points.assign(groups * slab_rows, 0.0F);
}

Sweep::Sweep(const rtn::Rules& rules, const Order& order, std::span<const float> upper, std::uint64_t block_size)
    : rules_(rules), order_(order), upper_(upper), block_size_(block_size) {}

// At groups: no block reaches over the end of a group.
std::uint64_t Sweep::block_end(std::uint64_t first, bool at_groups) const {
  const std::uint64_t most = std::min<std::uint64_t>(order_.columns.size(), first + block_size_);
  if (!at_groups) return most;
  std::uint64_t end = first + 1;
  while (end < most && order_.groups[end] == order_.groups[first]) ++end;
  return end;
}

void Sweep::code_block(const Slab& slab, const SlabGrid& grid, std::uint64_t first, std::uint64_t end, int threads) {
  const std::uint64_t width = end - first, n = slab.cols;
  factor_.resize(width * width);
  for (std::uint64_t k = 0; k < width; ++k) {
    const float* row = upper_.data() + (first + k) * n + first;
    std::copy(row, row + width, factor_.data() + k * width);
  }
  errors_.resize(slab.rows * width);
  const auto code_tile = [&](Tile& tile, std::size_t t) {
    const std::uint64_t row = t * kTileRows, count = std::min(kTileRows, slab.rows - row);
    load_tile(slab.values + row * n + first, n, count, width, tile.values.data());
    for (std::uint64_t k = 0; k < width; ++k) {
      const std::uint64_t group = order_.groups[first + k], column = order_.columns[first + k];
      const float* values = tile.values.data() + k * kTileRows;
      float* errors = tile.errors.data() + k * kTileRows;
      round_values(rules_, values, grid.scales.data() + group * grid.rows + row,
                   grid.zero_points.data() + group * grid.rows + row, count, tile.codes.data(), tile.rounded.data());
      if (slab.kept != nullptr) {
        clear_codes(rules_, slab.kept + row * n + column, n, grid.zero_points.data() + group * grid.rows + row, count,
                    tile.codes.data(), tile.rounded.data());
      }
      const float inverse = 1.0F / factor_[k * width + k];
      for (std::uint64_t r = 0; r < kTileRows; ++r) errors[r] = (values[r] - tile.rounded[r]) * inverse;
      for (std::uint64_t r = 0; r < count; ++r) slab.codes[(row + r) * n + column] = tile.codes[r];
      const std::uint64_t strip_end = std::min(width, (k / kStrip + 1) * kStrip);
      pass_on_column(tile.values.data(), tile.errors.data(), factor_.data(), width, k, k + 1, strip_end);
      if (k + 1 != strip_end) continue;
      pass_on_columns(tile.values.data(), tile.errors.data(), factor_.data(), width, k / kStrip * kStrip, strip_end,
                      strip_end, width);
    }
    if (slab.losses != nullptr) add_squares(tile.errors, width, count, slab.losses + row);
    store_tile(tile.errors.data(), count, width, errors_.data() + row * width, width);
  };
  rtn::parallel_for(
      threads, (slab.rows + kTileRows - 1) / kTileRows, [&] { return Tile(width); }, code_tile, [](Tile&) {});
}

void Sweep::run(const Slab& slab, SlabGrid& grid,
                const std::function<void(std::uint64_t group, std::uint64_t position)>& enter_group, int threads) {
  const std::uint64_t n = slab.cols;
  if (slab.losses != nullptr) std::fill_n(slab.losses, slab.rows, 0.0);
  for (std::uint64_t first = 0; first < n;) {
    const std::uint64_t end = block_end(first, static_cast<bool>(enter_group));
    if (enter_group && (first == 0 || order_.groups[first] != order_.groups[first - 1])) {
      enter_group(order_.groups[first], first);
    }
    code_block(slab, grid, first, end, threads);
    if (end < n) {
      gemm(slab.rows, n - end, end - first, -1.0F, {errors_.data(), end - first}, {upper_.data() + first * n + end, n},
           false, 1.0F, {slab.values + end, n}, threads);
    }
    first = end;
  }
}

}  // namespace quant::gptq
