// Rotary position embeddings.
#pragma once

#include <cstdint>
#include <list>

#include "forward/elementwise.h"
#include "forward/sequences.h"

namespace quant::forward {

/// Cosines and sines of a range of positions, kept for the operations that share them: keys and queries do.
class RotaryTables {
 public:
  /// Rotates rows in [tokens, heads * head_dim]; out may be in.
  void rotate(const RotaryOp& op, const Sequences& sequences, ConstFloats in, Floats out, int threads);
  void clear() { tables_.clear(); }

 private:
  struct Table {
    std::vector<float> frequency;
    float magnitude = 1.0F;
    std::uint64_t first = 0, end = 0;  // positions
    std::vector<float> cosine, sine;   // [positions, frequencies]
  };
  const Table& table(const RotaryOp& op, const std::vector<float>& frequency, std::uint64_t first, std::uint64_t end,
                     int threads);

  std::list<Table> tables_;
};

/// The inverse frequencies for a sequence of `length` tokens: the operation's own, or those of "dynamic NTK" beyond
/// dynamic_length: base' = base (factor length / dynamic_length - (factor - 1))^(d / (d - 2)). Source: Transformers,
/// modeling_rope_utils.py, _compute_dynamic_ntk_parameters. With long_inverse_frequency: those beyond dynamic_length.
std::vector<float> frequencies(const RotaryOp& op, std::uint64_t length);

}  // namespace quant::forward
