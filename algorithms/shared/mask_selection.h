// Which weights have the smallest scores, exactly so many, the same ones for any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "quant/sparsify.h"

namespace quant::shared {

/// What competes for being removed. Weights of an N:M pattern only ever compete within their M.
enum class Compared {
  matrix,  ///< all weights (or blocks) of the matrix
  row      ///< those of one row (or row of blocks)
};

/// Writes the scores of row `row` into scores [cols]; each is >= 0 (infinity is allowed, NaN comes last). Called
/// several times for each row, by several threads at once.
using RowScores = std::function<void(std::uint64_t row, std::span<float> scores)>;

/// Sets mask [rows, cols] to 0 where scores are smallest, until the pattern's share of what is compared is removed:
/// int(count * sparsity) weights or blocks. Weights whose mask is 0 already stay removed and count (blocks: where all
/// of the block is). Of equal scores the lower row, then the lower column is removed. A block's score is the mean
/// square of its weights'. The pattern must not contradict the size. `removed`: so many weights (or blocks) of the
/// matrix instead of the pattern's share.
void remove_smallest(std::uint64_t rows, std::uint64_t cols, const RowScores& scores, const SparsityPattern& pattern,
                     Compared compared, std::span<std::uint8_t> mask, int threads,
                     std::optional<std::uint64_t> removed = std::nullopt);

/// Bytes that remove_smallest() takes at most, beside its arguments.
std::uint64_t selection_bytes(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols, int threads);

/// How many weights that leaves where nothing was removed before; nothing where blocks are ragged.
std::optional<std::uint64_t> kept_weights(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols,
                                          Compared compared);

/// Sets mask[i] to 0 for the smallest scores until `removed` of the mask are 0; of equal scores the first ones. For a
/// single list: a row, or a part of one. `scratch` is overwritten.
void remove_smallest_of(std::span<const float> scores, std::uint64_t removed, std::span<std::uint8_t> mask,
                        std::vector<float>& scratch);

/// int(count * share), as the reference programs round.
std::uint64_t share_of(std::uint64_t count, double share);

}  // namespace quant::shared
