// One pass over the columns: code a column, pass its error on to those that follow.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "order.h"
#include "rtn/rules.h"

namespace quant::gptq {

/// Scales and zero points of a slab of rows, one row of values per group of columns: what a column of codes reads is
/// contiguous.
struct SlabGrid {
  std::uint64_t rows = 0;
  std::vector<float> scales;       ///< [groups, rows], effective (see rtn::effective_scales)
  std::vector<float> zero_points;  ///< [groups, rows], zeros if symmetric

  void resize(std::uint64_t groups, std::uint64_t slab_rows);
};

/// A slab of rows on its way through a sweep.
struct Slab {
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  float* values = nullptr;             ///< [rows, cols] in the order of coding; destroyed
  std::int8_t* codes = nullptr;        ///< [rows, cols] in the order of columns
  const std::uint8_t* kept = nullptr;  ///< [rows, cols] in the order of columns, or null; where it is 0 codes mean 0
  double* losses = nullptr;            ///< [rows] or null: set to each row's d H d^T, H damped, for H / Factor::unit
};

class Sweep {
 public:
  /// `upper` [cols, cols]: see Factor.
  Sweep(const rtn::Rules& rules, const Order& order, std::span<const float> upper, std::uint64_t block_size);

  /// Codes the slab. `enter_group(group, first position)` is called when the first column of a group that adjoins is
  /// reached, with all errors so far passed on; it may set the group's values in `grid`. Empty: the grid is complete.
  void run(const Slab& slab, SlabGrid& grid,
           const std::function<void(std::uint64_t group, std::uint64_t position)>& enter_group, int threads);

 private:
  std::uint64_t block_end(std::uint64_t first, bool at_groups) const;
  void code_block(const Slab& slab, const SlabGrid& grid, std::uint64_t first, std::uint64_t end, int threads);

  const rtn::Rules& rules_;
  const Order& order_;
  std::span<const float> upper_;
  std::uint64_t block_size_;
  std::vector<float> errors_;  // [rows, block]
  std::vector<float> factor_;  // the block's part of U, dense
};

}  // namespace quant::gptq
