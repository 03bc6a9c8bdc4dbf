// Checks of arguments, weights, importance and recipe parameters that several algorithms make.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "quant/algorithm.h"
#include "quant/registry.h"

namespace quant::shared {

/// Fills what follows from the arguments given. Throws Error{usage} with all that is wrong with them, or why
/// `algorithm` cannot code them.
void complete_args(const Algorithm& algorithm, QuantArgs& args);

/// Throws Error{numerical} that names the first NaN or infinite weight.
void require_finite(const TensorView& weight);

/// Throws Error{usage} unless `importance` is empty or holds finite numbers >= 0: one for each column, or, if `each`,
/// for each weight.
void check_importance(std::span<const float> importance, const TensorView& weight, bool each);

/// `scale` as a positive number of the floating type `type` whose reciprocal is finite: from F16's smallest subnormal
/// number, 2^-24, or from the smallest normal number of the others, to the type's largest.
float storable_scale(float scale, DType type);

/// The recipe parameter "importance": none, or hessian.
ParameterSpec importance_parameter(const std::string& of_what);
/// Whether it says hessian. Throws Error{usage} for other words.
bool wants_hessian(const Parameters& parameters);

}  // namespace quant::shared
