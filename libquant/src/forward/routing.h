// Mixtures of experts: the choice of experts, and the order of their rows.
#pragma once

#include <cstdint>
#include <vector>

#include "forward/elementwise.h"

namespace quant::forward {

/// Where the rows of each expert lie in a value made by GatherOp.
struct RouteIndex {
  std::uint64_t top_k = 0;
  std::vector<std::uint64_t> offsets;  ///< [experts + 1]: expert e has rows offsets[e] .. offsets[e + 1]
  std::vector<std::uint64_t> tokens;   ///< of each row
  std::vector<std::uint64_t> rows;     ///< [tokens, top_k]: the row of each choice
};

/// From a routing value [tokens, 2 top_k]. `all`: every token has a row for every expert.
RouteIndex index_routes(ConstFloats routing, std::uint64_t tokens, std::uint64_t experts, bool all);
/// `out` [tokens, 2 top_k]: expert numbers in descending order of their logits (the lower number first among equals),
/// then their weights.
void route(const RouteOp& op, ConstFloats logits, Floats out, int threads);
void gather(const RouteIndex& index, ConstFloats in, std::uint64_t width, Floats out, int threads);
void combine(const RouteIndex& index, ConstFloats routing, ConstFloats in, std::uint64_t width, Floats out,
             int threads);

}  // namespace quant::forward
