#include "pipeline/bias_correction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "pipeline/stored_floats.h"

namespace quant {

BiasCorrection correct_bias(std::span<const float> bias, std::span<const float> weight, std::span<const float> values,
                            std::span<const float> mean, DType type, int threads) {
  const std::size_t rows = bias.size(), cols = mean.size();
  BiasCorrection result{
      {bias.begin(), bias.end()}, std::vector<double>(rows), std::vector<double>(rows), std::vector<double>(rows), {}};
  std::vector<std::uint8_t> finite(rows, 1);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t r = 0; r < static_cast<std::int64_t>(rows); ++r) {
    const auto row = static_cast<std::size_t>(r);
    double error = 0, output = 0;
    for (std::size_t c = 0; c < cols; ++c) {
      const std::size_t at = row * cols + c;
      error += (static_cast<double>(weight[at]) - values[at]) * mean[c];
      output += static_cast<double>(values[at]) * mean[c];
    }
    result.error_mean[row] = error;
    result.output_mean[row] = output;
    const double wanted = bias[row] + error;
    finite[row] = std::isfinite(wanted) ? 1 : 0;
    if (finite[row] == 0) continue;
    result.values[row] = nearest_finite(type, static_cast<float>(wanted));
    result.change[row] = static_cast<double>(result.values[row]) - bias[row];
  }
  double most = 0;
  for (const double change : result.change) most = std::max(most, std::fabs(change));
  result.note = fmt::format("its bias makes up for the mean of the error: changed by up to {:.3g}", most);
  if (const auto left = std::count(finite.begin(), finite.end(), 0); left > 0) {
    result.note += fmt::format("; {} of {} rows keep theirs: the sum is not finite", left, rows);
  }
  return result;
}

// With the change d of a row: E[((W - V) x - d)^2] = E[((W - V) x)^2] - 2 d (W - V) mean + d^2, and so on.
void include_bias(const BiasCorrection& bias, OutputErrors& errors) {
  for (std::size_t r = 0; r < bias.change.size(); ++r) {
    const double d = bias.change[r];
    errors.noise += d * d - 2 * d * bias.error_mean[r];
    errors.recon += d * d + 2 * d * bias.output_mean[r];
  }
  errors.noise = std::max(errors.noise, 0.0);
  errors.recon = std::max(errors.recon, 0.0);
  errors.dot = (errors.signal + errors.recon - errors.noise) / 2;
}

}  // namespace quant
