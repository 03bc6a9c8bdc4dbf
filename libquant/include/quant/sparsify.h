// Setting weights to zero: which ones, and how the others make up for them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/calibrated.h"

namespace quant {

/// Which weights of a matrix [rows, cols] are to be zero.
struct SparsityPattern {
  double sparsity =
      0;  ///< share of the weights that become zero, 0 to 1; what `keep` and `of` say where they are given
  std::uint32_t keep = 0;        ///< of each `of` weights that follow each other in a row, so many are kept (N:M)
  std::uint32_t of = 0;          ///< M; 0: no such pattern
  std::uint32_t block_rows = 1;  ///< blocks of so many rows and columns are kept or removed as a whole;
  std::uint32_t block_cols = 1;  ///< the last ones may be ragged

  bool semi_structured() const { return of > 0; }
  bool blocks() const { return block_rows > 1 || block_cols > 1; }
  friend bool operator==(const SparsityPattern&, const SparsityPattern&) = default;
};
/// "50 %", "2:4", "50 % in blocks of 16 x 1".
std::string describe(const SparsityPattern& pattern);
/// Why no matrix [rows, cols] can have the pattern (shares out of range, columns that M does not divide), or nothing.
std::optional<std::string> contradiction(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols);
/// A pattern's N:M from "N:M", or blocks from "RxC"; throws Error{usage} naming the text.
SparsityPattern parse_pattern(const std::string& text);

/// One linear that is pruned, of a group that reads the same inputs.
struct PruneTask {
  std::string module;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::span<float> weight;  ///< [rows, cols] float32, finite; receives the pruned weights
  /// [rows, cols], 1: kept, 0: removed. In: weights that an earlier modifier removed, which stay removed and count
  /// towards the pattern; all 1 without one. Out: the mask; weights are exactly 0 where it is 0, and only there
  /// except for weights that were 0 before.
  std::span<std::uint8_t> mask;
  SparsityPattern pattern;
  std::span<const float> original = {};  ///< [rows, cols]: the weights before an earlier modifier pruned them, which a
                                         ///< refit aims at; empty: `weight` as it comes in
  SolveRecord record;
};

/// Sets weights to zero. Objects are immutable and may be used by several threads at once.
class Sparsifier : public Algorithm {
 public:
  Role role() const final { return Role::sparsify; }
  std::optional<std::string> unsupported(const QuantArgs& /*weights*/) const final { return std::nullopt; }

  /// What the recipe asks for in a linear: "model.layers.0.mlp.up_proj".
  virtual SparsityPattern pattern(const std::string& module) const = 0;
  /// Why this algorithm cannot make such a pattern, or nothing.
  virtual std::optional<std::string> unsupported_pattern(const SparsityPattern& /*pattern*/) const {
    return std::nullopt;
  }
  /// Exactly so many weights of a matrix [rows, cols] are kept where nothing was removed before; nothing where that
  /// depends on the weights.
  virtual std::optional<std::uint64_t> kept(const SparsityPattern& pattern, std::uint64_t rows,
                                            std::uint64_t cols) const = 0;
  /// Whether the bias of a linear that has one shall make up for the mean of what is changed: bias += (W - V) mean(x),
  /// with V the weights as they are stored in the end. needs().mean is then set.
  virtual bool corrects_bias() const { return false; }
  /// Prunes all linears of a group, which share `inputs`. Never fails for what the data are: what it does instead is in
  /// the task's record. The result does not depend on context.threads.
  virtual void prune(std::span<PruneTask> group, const InputStatistics& inputs, const RunContext& context) const = 0;
  /// Multiplications and additions of prune(), as CalibratedQuantizer::operations.
  virtual double operations(std::uint64_t /*rows*/, std::uint64_t /*cols*/) const { return 0; }
  /// Bytes that prune() takes at most while it works on a linear [rows, cols], beside weights, masks and statistics of
  /// the group; a factor of the Gram matrix, which its linears share, counts here. This one is that of two floats for
  /// each weight.
  virtual std::uint64_t scratch_bytes(const SparsityPattern& /*pattern*/, std::uint64_t rows, std::uint64_t cols,
                                      int /*threads*/) const {
    return rows * cols * 2 * sizeof(float);
  }
};

}  // namespace quant
