// Weights that stay floating-point numbers, as the tensors that they were.
#pragma once

#include "quant/layout.h"

namespace quant {

/// Holds plain numbers only, and leaves config.json as it is: such a checkpoint is one that was never quantized.
const Layout& dense_layout();

}  // namespace quant
