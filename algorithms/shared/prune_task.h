// What every sparsifier does with a linear before and after it chooses a mask.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/pruned_weight.h"
#include "quant/sparsify.h"

namespace quant::shared {

/// Throws Error{usage} for sizes that do not fit and patterns that the matrix cannot have, Error{numerical} for a NaN
/// or infinite weight, Error{interrupted} if the context says stop. `keep_zeros`: the weights that are 0 count as
/// removed earlier. Then weights are 0 where the mask is.
void begin_pruning(PruneTask& task, const RunContext& context, bool keep_zeros);
/// Throws Error{usage} unless the inputs are the linear's.
void require_inputs(const PruneTask& task, const InputStatistics& inputs);
/// Writes 0 where the mask is 0.
void clear_removed(const PruneTask& task, int threads);

/// Roots of the mean squares of inputs [cols], finite and >= 0, from `square` or the diagonal of `gram`; empty if no
/// token was seen or they are not finite.
std::vector<float> input_norms(const InputStatistics& inputs);
/// Why input_norms() is empty.
std::string lack_of_norms(const InputStatistics& inputs);

/// Prunes a copy of `weight` [rows, cols]: what the functions for C++ programs do.
PrunedWeight prune_weight(const Sparsifier& sparsifier, std::span<const float> weight, std::uint64_t rows,
                          std::uint64_t cols, const InputStatistics& inputs, const SparsityPattern& pattern,
                          int threads);

}  // namespace quant::shared
