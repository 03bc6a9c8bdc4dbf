// One pass over the columns: choose what is removed, pass its error on to the columns that follow.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/sparsify.h"

namespace quant::sparsegpt {

/// What a sweep works on.
struct Matrix {
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::span<float> weights;      ///< [rows, cols]; what is kept is updated, what is removed becomes 0
  std::span<std::uint8_t> mask;  ///< [rows, cols]; 0: removed, before or by the sweep
};

class Sweep {
 public:
  /// `upper` [cols, cols]: see gptq::Factor. `dead`: columns whose weights cost nothing. `reference`: the threshold of
  /// the reference program, which removes all weights of a block up to the int(count * sparsity)-th from 0. Blocks of
  /// columns are as near to `block_size` as the pattern allows. Keeps references to all.
  Sweep(const Matrix& matrix, const SparsityPattern& pattern, std::span<const float> upper,
        std::span<const std::uint32_t> dead, std::uint64_t block_size, bool reference, int threads);

  void run();
  /// Bytes that a sweep takes at most, beside its arguments and the choice of a mask.
  static std::uint64_t scratch_bytes(std::uint64_t rows, std::uint64_t cols, std::uint64_t block_size, int threads);

 private:
  struct Tile;

  void choose(std::uint64_t first, std::uint64_t end);
  void choose_by_reference(std::uint64_t first, std::uint64_t end);
  std::uint64_t removed_of(std::uint64_t first, std::uint64_t end) const;
  void pass_on(std::uint64_t first, std::uint64_t end);
  void visit_tile(Tile& tile, std::uint64_t row, std::uint64_t first, std::uint64_t width);
  void choose_in_tile(Tile& tile, std::uint64_t first, std::uint64_t k) const;
  std::uint64_t strip() const;

  const Matrix& matrix_;
  const SparsityPattern& pattern_;
  std::span<const float> upper_;
  std::uint64_t block_size_;
  bool reference_;
  int threads_;
  std::vector<float> inverse_;      // [cols]: 1 / U_jj; 0 where no error matters
  std::vector<float> errors_;       // [rows, block]
  std::vector<float> factor_;       // the block's part of U, dense
  std::vector<std::uint8_t> left_;  // the block's part of the mask, dense
  std::uint64_t removed_ = 0;       // weights of the blocks behind, without pattern
};

}  // namespace quant::sparsegpt
