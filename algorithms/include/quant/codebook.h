// Weights as places in a fixed table of 16 values times a scale per block: NF4 and FP4 (bitsandbytes).
#pragma once

#include <memory>
#include <span>

#include "quant/algorithm.h"

namespace quant {

struct CodebookOptions {
  bool hessian = false;  ///< a searched scale weighs errors with the mean square of the column's input (calibration)
};

/// Codes `weight` [rows, cols] with args.codebook nf4 or fp4. Without an observer, or with a min-max one, a block's
/// scale is its largest magnitude and codes are those of bitsandbytes' quantize_4bit, bit by bit: x * (1 / scale),
/// clamped to -1..1, goes to the nearest value, of equally near ones to the smaller. The observers mse and
/// memoryless_mse choose the scale of least squared error, weighted with `importance` ([cols], [rows * cols] or empty),
/// and are never worse than that. With args.double_quant scales are coded after the weights were, as there. A block of
/// zeros gets the smallest scale (F16: 2^-24, others 2^-126) instead of 0. Uses all processors; the result does not
/// depend on their number. Errors: Error{usage} for other arguments, other observers and any observer_kwargs,
/// Error{numerical} for a weight that is not finite.
QuantizedTensor codebook_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {},
                                  const CodebookOptions& options = {});
std::unique_ptr<Quantizer> make_codebook(const CodebookOptions& options = {});

}  // namespace quant
