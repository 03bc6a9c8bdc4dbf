// Round-to-nearest quantization of one matrix. Library quant::algorithms.
#pragma once

#include <memory>
#include <span>

#include "quant/algorithm.h"
#include "quant/quantized_tensor.h"

namespace quant {

/// Quantizes `weight` [out_features, in_features] by rounding each weight to the nearest code of its scale, which
/// args.observer chooses ("minmax" forms, "percentile", "mse", "imatrix_mse", "mse_search": algorithms/rtn/README.md).
/// `importance`: weight of each column's squared error [in_features], or empty. The dequantized value of the result is
/// dequantize_row's. Scales are stored as args.scale_dtype, else as the weight's own type (F32, F16, BF16), else F32.
/// Uses all processors; the result does not depend on their number. Throws Error{usage} for arguments that break a
/// rule, Error{numerical} for NaN or infinite weights.
QuantizedTensor rtn_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {});

/// The same as an algorithm object, for pipelines.
std::unique_ptr<Quantizer> make_rtn();

}  // namespace quant
