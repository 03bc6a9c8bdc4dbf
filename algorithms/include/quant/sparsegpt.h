// SparseGPT: removes weights one column after the other, and lets the columns that follow make up for them. Library
// quant::algorithms. Source: Frantar and Alistarh, "SparseGPT" (arXiv 2301.00774).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/pruned_weight.h"
#include "quant/refit.h"
#include "quant/registry.h"

namespace quant {

enum class SparseGptThreshold {
  exact,     ///< exactly int(rows * cols * sparsity) weights are removed
  reference  ///< of each block of columns, all scores up to the int(count * sparsity)-th from 0, and every weight of an
             ///< input that was always 0: the authors' program
};

enum class MaskSearch {
  none,  ///< the mask that the sweep chooses
  admm   ///< one that is chosen together with all weights, by alternating directions (ALPS); the sweep and the refit
         ///< then make up for it
};

struct SparseGptOptions {
  std::uint64_t block_size = 128;     ///< columns among which weights compete, and whose errors are passed on together
  double dampening_frac = 0.01;       ///< of the mean diagonal of H, added to the diagonal; >= 0
  double dampening_increment = 0.01;  ///< first step of the ladder if H is not positive definite then; > 0
  SparseGptThreshold threshold = SparseGptThreshold::exact;
  bool keep_zeros = false;                ///< weights that are 0 stay so and count
  std::uint64_t fallback_threshold = 32;  ///< fewer tokens than these: by magnitude and input norms, without updates
  MaskSearch mask_search = MaskSearch::none;
  RefitOptions refit;  ///< with a damping of its own
};

/// Prunes `weight` [rows, cols] so that tr((W - V) H (W - V)^T) is small, H = `inputs`.gram = X^T X / tokens
/// [cols, cols]: scores w_ij^2 / U_jj^2 with H^-1 = U^T U; what is removed is passed on to the columns that follow.
/// Unstructured weights compete within block_size columns of all rows, N:M within their M, blocks within the columns.
/// Threads do not change the result. Never fails for what H is: see SolveRecord. Throws Error{usage} for options out of
/// range and a pattern that the matrix cannot have, Error{numerical} for NaN or infinite weights.
PrunedWeight sparsegpt_prune(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                             const SparsityPattern& pattern, const SparseGptOptions& options = {}, int threads = 1);

/// The modifier, from a recipe's parameters (algorithms/sparsegpt/README.md). Throws Error{usage} that begins with the
/// name of a parameter that is wrong.
std::unique_ptr<Sparsifier> make_sparsegpt(const Parameters& parameters);

}  // namespace quant
