// Memory that a model takes while it runs, before anything is loaded.
#pragma once

#include <cstdint>

#include "quant/language_model.h"

namespace quant::evaluate {

/// Bytes of one part of a model.
struct PartMemory {
  std::uint64_t weights = 0;    ///< prepared
  std::uint64_t loading = 0;    ///< float32 copy of its largest tensor, while that is prepared
  std::uint64_t per_token = 0;  ///< values alive at once, for each token of a chunk
};
PartMemory memory_of(const Program& program, ProductType product);

/// The plan for sequences of at most `longest` tokens, `tokens` in total. Throws Error{usage} if `options.memory` is
/// too small.
MemoryPlan plan_memory(const ModelProgram& program, const LanguageModelOptions& options, std::uint64_t longest,
                       std::uint64_t tokens);

}  // namespace quant::evaluate
