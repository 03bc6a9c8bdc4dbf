// Improves codes and scales that are there already, by the same measure: tr(D H D^T), D = W - Q.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/quantized_tensor.h"
#include "rtn/rules.h"

namespace quant::gptq {

/// H as refinement reads it, in an order in which the columns that share a scale are neighbours.
struct RefineInputs {
  std::span<const float> gram;         ///< [n, n], without damping
  float damping = 0;                   ///< what each diagonal element gets in addition
  std::vector<std::uint32_t> columns;  ///< position -> column
};

/// Coordinate descent: in turn, each scale and each code gets the value that is best while all others stay.
class Refiner {
 public:
  /// `out`: codes and scales of the whole linear, improved in place. Keeps references to all.
  Refiner(const rtn::Rules& rules, const RefineInputs& inputs, std::uint64_t block_size, int threads,
          QuantizedTensor& out);

  /// Rows [first, first + count), a multiple of the rows that share a scale except at the end. `weights` [count, n], in
  /// the order of positions, is what the codes stand for. Each round visits every group: its scale first (if `scales`),
  /// then its codes. The error does not grow but for rounding.
  /// `kept` [count, n] in the order of columns, or null: where it is 0 the codes, which mean 0, stay.
  void run(std::span<const float> weights, const std::uint8_t* kept, std::uint64_t first, std::uint64_t count,
           int rounds, bool scales);

 private:
  struct Panel {  // positions [begin, end): a part of one group, or several whole ones
    std::uint64_t begin, end;
  };
  struct Tile;

  bool small_groups() const;
  Panel panel_at(std::uint64_t begin) const;
  std::uint64_t group_of(std::uint64_t position) const { return position / out_.grid.col_extent; }
  std::uint64_t group_end(std::uint64_t group) const;

  void fill_differences();
  void refit_large_group(std::uint64_t group);
  void visit_panel(const Panel& panel, bool scales);
  void visit_tile(Tile& tile, std::size_t number, const Panel& panel, bool scales);
  void refit_in_tile(Tile& tile, const Panel& panel, std::uint64_t group);
  void recode_in_tile(Tile& tile, const Panel& panel, std::uint64_t begin, std::uint64_t end);
  void load_codes(std::uint64_t row, std::uint64_t count, std::uint64_t position, std::int8_t* codes) const;
  void load_scales(std::uint64_t row, std::uint64_t count, std::uint64_t group, float* scales, float* zeros) const;
  float better_scale(float scale, double slope, double curvature) const;

  const rtn::Rules& rules_;
  const RefineInputs& inputs_;
  std::uint64_t block_size_;
  int threads_;
  QuantizedTensor& out_;
  std::uint64_t n_;
  // of the slab in work:
  std::span<const float> weights_;
  const std::uint8_t* kept_ = nullptr;
  std::uint64_t first_ = 0, count_ = 0;
  std::vector<float> differences_;  // D [count, n]
  std::vector<float> gradients_;    // D H of a panel [count, width]
  std::vector<float> coupling_;     // H of a panel [width, width], damped
};

}  // namespace quant::gptq
