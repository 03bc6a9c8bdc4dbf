// Ternary and 1-bit weights: signs (and zeros) times the mean magnitude.
#pragma once

#include <memory>
#include <span>

#include "quant/algorithm.h"

namespace quant {

/// Codes `weight` [rows, cols] per tensor, channel, group or block with a scale of the mean magnitude:
///   ternary (type int, 2 bits, symmetric, symmetric_range restricted): code = clamp(round(w / scale), -1, 1), ties to
///     even (Ma et al. 2024, "The Era of 1-bit LLMs", arXiv 2402.17764, equations 1 to 3, without their lower limit of
///     the scale);
///   signs (type codebook, codebook sign): -1 or 1, 1 for 0 (Rastegari et al. 2016, XNOR-Net, arXiv 1603.05279).
/// Weights that are of such a form already keep it: where a unit holds nothing but -s, 0 and s (signs: -s and s) and s
/// can be stored, the scale is s and every weight is coded exactly: F16 from 2^-24 (subnormal numbers too), BF16 and
/// F32 from 2^-126. A unit of zeros gets the smallest of these. `importance` ([cols], [rows * cols] or empty): weight
/// of each magnitude in the mean; where all of a unit are 0, all count the same. Uses all processors; the result does
/// not depend on their number. Errors: Error{usage} for other arguments, Error{numerical} for a weight that is not
/// finite.
QuantizedTensor bitnet_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {});
std::unique_ptr<Quantizer> make_bitnet();

}  // namespace quant
