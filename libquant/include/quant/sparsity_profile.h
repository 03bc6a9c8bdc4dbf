// How sparse each linear becomes where a recipe gives only the average: profiles, found before anything is planned.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "quant/calibration_data.h"
#include "quant/plan.h"

namespace quant {

/// The sparsity of one linear by its module's name.
using ModuleSparsity = std::pair<std::string, double>;

struct SparsityProfileOptions {
  ProductType product = ProductType::f32;
  int threads = 0;           ///< 0: all processors
  std::uint64_t memory = 0;  ///< bytes that weights, states, statistics and logits may take; 0: no limit
  /// Called at most ten times a second: linears done and to do.
  std::function<void(std::uint64_t done, std::uint64_t total, const std::string& module)> progress = {};
  const std::atomic<bool>* stop = nullptr;  ///< set to true: ends with Error{interrupted}
};

/// The value of a modifier's `sparsity_profile` where it is not uniform, else empty.
std::string sparsity_profile(const RecipeModifier& modifier);
/// Whether the profile is found by running the model: all but "global".
bool profile_needs_data(const std::string& profile);

/// The sparsity of each linear that `modifier` of the plan prunes, in the order of the plan; their average over all
/// weights is what the recipe gives them on average.
///   owl: layers with many outliers |w| ||x||_2 > owl_m * mean are pruned less, by up to owl_lmbda either way. Source:
///     Yin et al. 2023, OWL (arXiv 2310.05175), equations 1 and 2.
///   global: the smallest magnitudes of all linears together are removed.
///   error: of nine sparsities up to half of what is possible away from the average each linear gets the one that makes
///     the sum of divergences KL(original || one linear pruned) least, by dynamic programming. One divergence is
///     measured for each linear, the others follow in proportion to its squared output error.
/// `sequences`: what the unpruned model is run on; unused for global. `plan` may have no problem but that its profiles
/// are not resolved. Throws Error{usage} for N:M patterns, whose shares are fixed, and for a memory limit that is too
/// small; Error{unsupported} for models whose forward pass is not known, Error{interrupted}.
std::vector<ModuleSparsity> resolve_sparsity_profile(const Plan& plan, std::size_t modifier,
                                                     const TokenSequences& sequences,
                                                     const SparsityProfileOptions& options);

}  // namespace quant
