// Correlated inputs and weights for the tests of GPTQ, and its error in float64.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "quant/gptq.h"
#include "rtn/reference.h"

namespace quant::test {

/// H = X^T X / tokens of correlated Gaussian inputs with channels of unequal size.
inline InputStatistics correlated_inputs(std::uint64_t cols, std::uint64_t tokens, unsigned seed = 5) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, 1.0);
  std::vector<double> size(cols);
  for (double& value : size) value = std::exp(0.7 * normal(random));
  std::vector<double> gram(cols * cols, 0.0), x(cols);
  for (std::uint64_t t = 0; t < tokens; ++t) {
    const double common = normal(random);
    double last = 0;
    for (std::uint64_t c = 0; c < cols; ++c) {
      last = 0.6 * last + 0.6 * normal(random);
      x[c] = size[c] * (last + 0.5 * common + 0.1);
    }
    for (std::uint64_t i = 0; i < cols; ++i) {
      for (std::uint64_t j = 0; j < cols; ++j) gram[i * cols + j] += x[i] * x[j];
    }
  }
  InputStatistics inputs;
  inputs.tokens = tokens;
  inputs.cols = cols;
  for (const double value : gram) inputs.gram.push_back(static_cast<float>(value / static_cast<double>(tokens)));
  return inputs;
}

inline InputStatistics identity_inputs(std::uint64_t cols) {
  InputStatistics inputs;
  inputs.tokens = 1000;
  inputs.cols = cols;
  inputs.gram.assign(cols * cols, 0.0F);
  for (std::uint64_t i = 0; i < cols; ++i) inputs.gram[i * cols + i] = 1.0F;
  return inputs;
}

/// tr((W - Q) H (W - Q)^T), one weight at a time.
inline double output_error(const std::vector<float>& weights, const QuantizedTensor& q, const InputStatistics& inputs) {
  std::vector<float> row(q.cols);
  std::vector<double> error(q.cols);
  double total = 0;
  for (std::uint64_t r = 0; r < q.rows; ++r) {
    dequantize_row(q, r, row);
    for (std::uint64_t c = 0; c < q.cols; ++c) error[c] = static_cast<double>(weights[r * q.cols + c]) - row[c];
    for (std::uint64_t i = 0; i < q.cols; ++i) {
      double sum = 0;
      for (std::uint64_t j = 0; j < q.cols; ++j) sum += static_cast<double>(inputs.gram[i * q.cols + j]) * error[j];
      total += sum * error[i];
    }
  }
  return total;
}

inline DType stored_scale_type(const QuantArgs& args) {
  return is_mx(args) ? DType::U8 : args.scale_dtype.value_or(DType::F32);
}

}  // namespace quant::test
