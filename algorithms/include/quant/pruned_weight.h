// A pruned matrix: what the functions of magnitude.h, wanda.h and sparsegpt.h return. Library quant::algorithms.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/sparsify.h"

namespace quant {

struct PrunedWeight {
  std::vector<float> values;       ///< [rows, cols]; 0 where the mask is
  std::vector<std::uint8_t> mask;  ///< [rows, cols]; 1: kept, 0: removed
  SolveRecord record;
};

}  // namespace quant
