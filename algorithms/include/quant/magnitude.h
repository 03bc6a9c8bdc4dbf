// Pruning that looks at the weights alone: the smallest magnitudes become 0, or those that are 0 stay so. Library
// quant::algorithms.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/pruned_weight.h"
#include "quant/registry.h"

namespace quant {

/// Sets the int(rows * cols * sparsity) smallest magnitudes of the whole `weight` [rows, cols] to 0 (N:M: in each row
/// those of each M; blocks: those of the smallest mean square); of equal ones the lower row, then column. Threads do
/// not change the result. Throws Error{usage} for a pattern that the matrix cannot have, Error{numerical} for NaN or
/// infinite weights.
PrunedWeight magnitude_prune(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols,
                             const SparsityPattern& pattern, int threads = 1);

/// The modifiers, from a recipe's parameters (algorithms/magnitude/README.md, algorithms/constant/README.md). Throw
/// Error{usage} that begins with the name of a parameter that is wrong.
std::unique_ptr<Sparsifier> make_magnitude(const Parameters& parameters);
std::unique_ptr<Sparsifier> make_constant_pruning(const Parameters& parameters);

}  // namespace quant
