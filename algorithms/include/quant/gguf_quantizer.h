// Weights as the block formats of GGUF files (quant/block_format.h).
#pragma once

#include <memory>
#include <span>

#include "quant/algorithm.h"
#include "quant/block_encode.h"

namespace quant {

struct GGUFOptions {
  BlockEncoder encoder = BlockEncoder::search;
  bool hessian = false;  ///< squared errors count by the mean square of their column's input (calibration)
};

/// Codes `weight` [rows, cols] with args.block (args of type block, see block_args) as encode_blocks does. Uses all
/// processors; the result does not depend on their number. Errors: Error{usage} for other arguments and columns that
/// are not whole blocks, Error{numerical} for a weight that is not finite.
QuantizedTensor gguf_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {},
                              const GGUFOptions& options = {});
std::unique_ptr<Quantizer> make_gguf(const GGUFOptions& options = {});

}  // namespace quant
