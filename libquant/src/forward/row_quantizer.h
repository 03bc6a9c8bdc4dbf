// Quantizes rows of floats and turns them back, with scales that follow from the values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/scale_rules.h"

namespace quant::forward {

/// Fake quantization of one row after another, for one thread.
class RowQuantizer {
 public:
  explicit RowQuantizer(const ScaleRules& rules) : rules_(rules) {}
  /// Scales from each group of `group` values; the last may be short.
  void dynamic(std::span<float> row, std::uint64_t group);
  /// One scale from the magnitudes below `threshold`, for all columns but those marked in `keep`.
  void without_outliers(std::span<float> row, float threshold, std::span<const char> keep);
  /// One given scale and zero point.
  void fixed(std::span<float> row, float scale, float zero_point) const;

 private:
  ScaleRules rules_;
  std::vector<float> minima_, maxima_, scales_, zero_points_, kept_;
};

/// Marks the columns of x [rows, columns] that hold a magnitude of at least `threshold`.
std::vector<char> outlier_columns(std::span<const float> x, std::uint64_t rows, float threshold, int threads);

/// The rules of `args` for values in float32, whose scales are float32 unless args.scale_dtype says otherwise.
ScaleRules activation_rules(const QuantArgs& args, float global_scale);

}  // namespace quant::forward
