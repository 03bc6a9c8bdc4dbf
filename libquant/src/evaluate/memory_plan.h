// Memory that a model takes while it runs, before anything is loaded.
#pragma once

#include <cstdint>

#include "quant/language_model.h"

namespace quant::evaluate {

/// Bytes of one part of a model.
struct PartMemory {
  std::uint64_t weights = 0;    ///< prepared: floats, or packed
  std::uint64_t loading = 0;    ///< the largest tensor as it is read, while it is prepared
  std::uint64_t per_token = 0;  ///< values alive at once, for each token of a chunk
};
/// `packed`: the weights, of which quantized ones stay packed where kernels read their kind (ForwardOptions::packed);
/// null: all become floats.
PartMemory memory_of(const Program& program, ProductType product, const ModelWeights* packed = nullptr);

/// The plan for sequences of at most `longest` tokens, `tokens` in total, where quantized weights stay packed. Throws
/// Error{usage} if `options.memory` is too small.
MemoryPlan plan_memory(const ModelProgram& program, const ModelWeights& weights, const LanguageModelOptions& options,
                       std::uint64_t longest, std::uint64_t tokens);

}  // namespace quant::evaluate
