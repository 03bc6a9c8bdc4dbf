// Refitting as the modifiers do it.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "gptq/solver.h"
#include "quant/refit.h"
#include "quant/registry.h"
#include "quant/sparsify.h"

namespace quant::refit {

/// The parameters of a recipe, and their values. `damping`: with dampening_frac among them. options_of throws
/// Error{usage} that begins with the name of a parameter that is wrong.
std::vector<ParameterSpec> parameters(bool damping);
RefitOptions options_of(const Parameters& parameters);
void check(const RefitOptions& options);
/// Multiplications and additions, about.
double operations(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols);
/// Bytes of the copy of a linear's weights that a Refitter keeps, and what refitting takes beside it.
std::uint64_t original_bytes(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols);
std::uint64_t scratch_bytes(const RefitOptions& options, std::uint64_t rows, std::uint64_t cols);

/// What follows from the inputs alone, for a group of linears.
class Refitter {
 public:
  /// Keeps references to all arguments.
  Refitter(const InputStatistics& inputs, const RefitOptions& options, const RunContext& context);

  /// A copy of the weights before any modifier prunes them, empty if nothing will be refitted.
  std::vector<float> original_of(const PruneTask& task) const;
  /// Refits what the mask keeps.
  void run(PruneTask& task, std::span<const float> original) const;
  void run(std::span<float> pruned, std::span<const float> original, std::span<const std::uint8_t> mask,
           std::uint64_t rows, SolveRecord& record) const;

 private:
  const InputStatistics& inputs_;
  const RefitOptions& options_;
  GptqOptions shared_options_;
  const RunContext& context_;
  std::optional<gptq::SharedInputs> shared_;  // not without a refit
};

}  // namespace quant::refit
