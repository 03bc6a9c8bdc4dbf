// Error measures of quantized weights. Every formula of the reports lives here; docs/metrics.md explains them.
#pragma once

#include <cstdint>
#include <span>

#include "quant/quantized_tensor.h"
#include "quant/tensor.h"

namespace quant {

/// Sums over weights w and their dequantized values v, from which every measure follows. Additive over rows.
struct ErrorSums {
  double signal = 0;          ///< sum of w^2
  double noise = 0;           ///< sum of (w - v)^2
  double dot = 0;             ///< sum of w v
  double recon = 0;           ///< sum of v^2
  double max_abs_error = 0;   ///< max |w - v|
  std::uint64_t count = 0;    ///< weights
  std::uint64_t clipped = 0;  ///< |w - v| > |scale| / 2 at an end of the code range (integer); |w| beyond it (floating)
  std::uint64_t zeros = 0;    ///< weights with v == 0

  ErrorSums& operator+=(const ErrorSums& other);
};

struct WeightMetrics {
  double nmse = 0;     ///< noise / signal (relative squared Frobenius error); 0 if both are 0
  double sqnr_db = 0;  ///< -10 log10(nmse); +infinity for an exact result
  double cosine = 1;   ///< dot / sqrt(signal recon); 1 if both are 0
  double rmse = 0;     ///< sqrt(noise / count)
  double max_abs_error = 0;
  double clipped_fraction = 0;
  double zero_fraction = 0;
};
WeightMetrics summarize(const ErrorSums& sums);

/// Where the errors of a slice of rows go. Either span may be empty: then that part is not measured.
struct SliceErrors {
  std::span<ErrorSums> rows;       ///< one entry per row of the slice; overwritten
  std::span<double> group_signal;  ///< [grid.cols]: sum of w^2 of each scale column, added to what is there
  std::span<double> group_noise;   ///< [grid.cols]: sum of (w - v)^2 likewise
  bool wanted() const { return !rows.empty(); }
};

/// Errors of `weight` [rows, cols] against `quantized` of the same sizes; errors.rows.size() == rows.
void measure_rows(const TensorView& weight, const QuantizedTensor& quantized, SliceErrors errors);

/// Sums of one pair of float rows (any two sources, e.g. two checkpoints); clipped stays 0.
ErrorSums measure_values(std::span<const float> reference, std::span<const float> approximation);

}  // namespace quant
