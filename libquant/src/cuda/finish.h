// The last step of a product: parts are added up, then what is stored apart, then the bias.
#pragma once

#include "cuda/numbers.h"

namespace quant::cuda {

/// y [tokens][rows] = factor * sum of `splits` parts + sparse x + bias. Parts [splits][tokens][rows]; one part may be y
/// itself.
struct Finish {
  const float* parts;
  uint64_t splits, tokens, rows, cols;
  float factor;
  const uint64_t* starts;   // [rows + 1] of the sparse part, or null
  const uint32_t* columns;  // of its entries
  const float* values;      //
  const float* x;           // [tokens][cols], for the sparse part
  const float* bias;        // [rows], or null
  float* y;
};

/// Element `index` of y.
QUANT_HD void finish_element(const Finish& f, uint64_t index) {
  if (index >= f.tokens * f.rows) return;
  const uint64_t row = index % f.rows, token = index / f.rows;
  float result = 0.0F;
  for (uint64_t s = 0; s < f.splits; ++s) result += f.parts[s * f.tokens * f.rows + index];
  result *= f.factor;
  if (f.starts != nullptr) {
    float sum = 0.0F;
    for (uint64_t i = f.starts[row]; i < f.starts[row + 1]; ++i) {
      sum = fused(f.values[i], f.x[token * f.cols + f.columns[i]], sum);
    }
    result += sum;
  }
  f.y[index] = f.bias == nullptr ? result : result + f.bias[row];
}

}  // namespace quant::cuda
