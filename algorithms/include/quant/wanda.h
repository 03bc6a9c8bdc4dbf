// Wanda: removes the weights that contribute least to the outputs, by magnitude times the norm of their inputs.
// Library quant::algorithms. Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models"
// (arXiv 2306.11695).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/pruned_weight.h"
#include "quant/registry.h"

namespace quant {

enum class WandaVariant {
  rows,       ///< each row loses the int(cols * sparsity) weights of smallest score
  cumulative  ///< the matrix loses the int(rows * cols * sparsity) weights up to which the sorted scores of their row
              ///< add up to the smallest shares of the row's sum
};

/// Prunes `weight` [rows, cols] by the scores |w_ij| * sqrt(mean x_j^2), from inputs.square [cols] or else the diagonal
/// of inputs.gram. N:M: in each row those of each M; blocks: those of the smallest mean square, in each row of blocks.
/// Of equal scores the lower column goes first. Without (finite) inputs by magnitude, which the record says. Threads do
/// not change the result. Throws Error{usage} for a pattern that the matrix cannot have, Error{numerical} for NaN or
/// infinite weights.
PrunedWeight wanda_prune(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                         const SparsityPattern& pattern, WandaVariant variant = WandaVariant::rows, int threads = 1);

/// The modifier, from a recipe's parameters (algorithms/wanda/README.md). Throws Error{usage} that begins with the name
/// of a parameter that is wrong.
std::unique_ptr<Sparsifier> make_wanda(const Parameters& parameters);

}  // namespace quant
