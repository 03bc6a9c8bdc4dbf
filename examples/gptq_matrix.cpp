// Codes one matrix by GPTQ for inputs whose columns depend on each other, and compares its outputs with plain rounding.
#include <quant/gptq.h>
#include <quant/rtn.h>

#include <cstdio>
#include <random>
#include <vector>

constexpr std::size_t kRows = 64, kCols = 256, kTokens = 1024;

// ||X (W - V)^T||^2 / ||X W^T||^2 over the tokens x of X.
double output_error(const std::vector<float>& weight, const quant::QuantizedTensor& coded,
                    const std::vector<float>& x) {
  double noise = 0, signal = 0;
  std::vector<float> row(kCols);
  for (std::size_t r = 0; r < kRows; ++r) {
    quant::dequantize_row(coded, r, row);
    for (std::size_t t = 0; t < kTokens; ++t) {
      double y = 0, v = 0;
      for (std::size_t c = 0; c < kCols; ++c) {
        y += weight[r * kCols + c] * x[t * kCols + c];
        v += row[c] * x[t * kCols + c];
      }
      signal += y * y, noise += (y - v) * (y - v);
    }
  }
  return noise / signal;
}

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> weight(kRows * kCols), x(kTokens * kCols);
  for (float& w : weight) w = 0.02F * normal(random);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = normal(random) + (i % kCols == 0 ? 0.0F : 0.9F * x[i - 1]);

  quant::InputStatistics inputs;  // what GPTQ needs to know about the inputs: H = X^T X / tokens
  inputs.tokens = kTokens;
  inputs.cols = kCols;
  inputs.gram.assign(kCols * kCols, 0);
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t i = 0; i < kCols; ++i) {
      for (std::size_t j = 0; j < kCols; ++j) {
        inputs.gram[i * kCols + j] += x[t * kCols + i] * x[t * kCols + j] / kTokens;
      }
    }
  }

  const quant::QuantArgs args = *quant::preset_scheme("W4A16")->weights;  // 4 bits in groups of 128
  const quant::GptqResult gptq = quant::gptq_quantize(weight, kRows, inputs, args);
  const quant::QuantizedTensor rounded = quant::rtn_quantize(quant::f32_view(weight, kRows, kCols), args);
  std::printf("relative error of outputs: rounding %.4f, GPTQ %.4f\n", output_error(weight, rounded, x),
              output_error(weight, gptq.tensor, x));
}
