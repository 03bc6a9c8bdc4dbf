// Softmax attention over sequences.
#pragma once

#include <cstdint>
#include <span>

#include "forward/elementwise.h"
#include "forward/kv_cache.h"

namespace quant::forward {

/// Keys or values of one sequence.
struct KvView {
  const float* plain = nullptr;      ///< [keys, heads * width]
  const float* quantized = nullptr;  ///< the same, quantized as far as `prefix` says; null: not at all
  QuantizedPrefix prefix{};
};

/// Queries of one sequence, and all that they may look at.
struct AttentionSequence {
  std::uint64_t first = 0;   ///< row of the first query
  std::uint64_t tokens = 0;  ///< queries
  std::uint64_t keys = 0;    ///< tokens with keys; the queries' own are the last `tokens` of them
  KvView key, value;
};

/// out [tokens, heads * value_dim] from q [tokens, heads * head_dim]. Works on blocks of queries of one head: memory is
/// a block of queries times the sequence's length per thread. What a query gets does not depend on other sequences.
void attend(const AttentionOp& op, std::span<const AttentionSequence> sequences, ConstFloats q, Floats out,
            int threads);

}  // namespace quant::forward
