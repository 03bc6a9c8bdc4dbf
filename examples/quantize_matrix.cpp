// Quantizes one random matrix to 4 bits and prints how much of it survives.
#include <quant/metrics.h>
#include <quant/rtn.h>

#include <cstdio>
#include <random>
#include <vector>

int main() {
  constexpr std::size_t kRows = 256;
  constexpr std::size_t kCols = 1024;
  std::vector<float> values(kRows * kCols);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  for (float& value : values) value = normal(random);

  const quant::TensorView weight = quant::f32_view(values, kRows, kCols);
  const quant::QuantArgs args = *quant::preset_scheme("W4A16")->weights;
  const quant::QuantizedTensor quantized = quant::rtn_quantize(weight, args);

  std::vector<quant::ErrorSums> rows(kRows);
  quant::measure_rows(weight, quantized, {.rows = rows, .group_signal = {}, .group_noise = {}});
  quant::ErrorSums total;
  for (const quant::ErrorSums& row : rows) total += row;
  std::printf("%s: SQNR %.2f dB\n", quant::describe(args).c_str(), quant::summarize(total).sqnr_db);
}
