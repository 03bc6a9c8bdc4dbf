// What rounding does to a weight whose columns are multiplied by factors.
#pragma once

#include <span>

#include "quant/calibrated.h"

namespace quant::smoothing {

/// d [rows, cols] = Q(W diag(s)) diag(1/s) - W with round-to-nearest by the task's own arguments. `s` empty: 1.
/// `importance` [cols]: weights of squared errors, for observers that search, or empty.
/// Throws Error{numerical} if a scaled weight is not finite.
void rounding_error(const LinearTask& task, std::span<const float> s, std::span<const float> importance,
                    std::span<float> d, int threads);

/// Rounds activations x [rows, cols] in place as `args` say: one scale per row (token), group or tensor. `fixed`: the
/// static scale (and zero point) of a tensor, the global scale of NVFP4; empty: from x itself.
/// Throws Error{numerical} if a value is not finite.
void round_inputs(std::span<float> x, std::uint64_t cols, QuantArgs args, TensorParams fixed, int threads);

/// The importance of columns for such a reader: diag(H) / s^2 if its observer weighs errors, else nothing.
std::vector<float> importance_of(const LinearTask& task, const InputStatistics& inputs, std::span<const float> s);

}  // namespace quant::smoothing
