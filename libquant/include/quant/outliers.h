// A few weights that are stored apart, exactly, beside the codes of all (dense-and-sparse).
#pragma once

#include <memory>
#include <span>

#include "quant/algorithm.h"

namespace quant {

/// The weights of `weight` [rows, cols] that args.outlier_percent and args.sensitive_percent take out: first those of
/// largest magnitude, then, of the rest, those of largest importance * w^2 (all alike without importance; an importance
/// of each weight counts by itself: F). Exactly sparse_count() of them; equal ones are taken in row-major order. NaN
/// counts as infinity. Null if both percentages are 0.
/// `importance`: [cols], [rows * cols], or empty. Source: Kim et al. 2023, SqueezeLLM (arXiv 2306.07629), section 4.2.
std::shared_ptr<const SparseChoice> choose_sparse(const TensorView& weight, const QuantArgs& args,
                                                  std::span<const float> importance);

/// `dense` with a sparse part: where the arguments ask for one, the chosen weights are set to zero (with no importance,
/// if dense.weighs_each()) before `dense` codes them, and what their slots then lack is stored apart, rounded to the
/// type of scales (F32 where that is no such type). Calls are passed on as they are where the arguments ask for none.
/// `dense` must outlive the result.
std::unique_ptr<Quantizer> with_sparse_part(const Quantizer& dense);

}  // namespace quant
