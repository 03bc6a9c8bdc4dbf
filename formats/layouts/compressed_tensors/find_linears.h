// The quantized linears of a checkpoint, told by the tensors present.
#pragma once

#include <vector>

#include "quant/layout.h"

namespace quant::compressed_tensors {

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint);

}  // namespace quant::compressed_tensors
