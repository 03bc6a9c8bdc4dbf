// Masks that are chosen together with the weights that make up for them.
#pragma once

#include <cstdint>
#include <span>

#include "least_squares.h"
#include "quant/sparsify.h"

namespace quant::refit {

/// Lowers tr((W - V) H' (W - V)^T) over masks of the pattern and weights V alike, by alternating directions with a
/// penalty that grows: X minimizes the error near the masked V, V is what is left of X + duals after the smallest are
/// removed. Weights are measured in units of the roots of H's diagonal. `mask` [rows, n]: in: 0 stays 0; out: the mask.
/// Unstructured weights compete in the whole matrix. Returns false (mask unchanged) if no factor of H' exists.
/// Threads do not change the result. Source: Meng et al. 2024, ALPS (arXiv 2406.07831).
bool search_mask(const Metric& metric, std::span<const float> weight, std::uint64_t rows,
                 const SparsityPattern& pattern, std::span<std::uint8_t> mask, const RunContext& context);

/// Bytes that search_mask() takes beside its arguments.
std::uint64_t search_bytes(std::uint64_t rows, std::uint64_t n);

}  // namespace quant::refit
