// Moves all tokens through the unpruned model, one whole program after another, and shows values on the way.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pipeline/activation_store.h"
#include "pipeline/block_stream.h"

namespace quant::structured {

/// What a visitor sees of a chunk.
struct ChunkView {
  std::size_t number = 0;
  std::uint64_t tokens = 0;
  std::vector<std::uint64_t> lengths;  ///< of its sequences
  const Values* values = nullptr;
};

class ResidualStream {
 public:
  /// The context must outlive it.
  explicit ResidualStream(const StreamContext& context)
      : context_(context), store_(*context.budget, context.work->chunks.size()) {}

  /// Runs operations [0, last) on every chunk and shows it the values `wanted`; the input is among them if it is
  /// named. With `goes_on` (only for whole programs) the program's output is kept for the next one.
  void run(const Program& program, const ModelWeights& weights, std::size_t last, std::span<const ValueId> wanted,
           bool goes_on, const std::function<void(const ChunkView&)>& visit);

 private:
  const StreamContext& context_;
  ActivationStore store_;
};

}  // namespace quant::structured
