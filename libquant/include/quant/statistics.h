// What the values of a checkpoint's tensors look like: range, moments, outliers, and values that are not numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quant/logical_tensors.h"

namespace quant {

/// A column of a weight [out_features, in_features] and its largest magnitude.
struct ColumnPeak {
  std::uint64_t column = 0;
  float absmax = 0;
};

/// Of one tensor. Range and moments are over finite values only and are 0 if there are none.
struct TensorStatistics {
  std::size_t tensor = 0;  ///< place in LogicalTensors::tensors()
  std::uint64_t count = 0;
  std::uint64_t zeros = 0;
  std::uint64_t nans = 0;
  std::uint64_t infinities = 0;
  std::optional<std::uint64_t> first_bad;  ///< flat place of the first NaN or infinity
  float min = 0;
  float max = 0;
  float absmax = 0;
  double mean = 0;
  double stddev = 0;                    ///< of the population: divided by the number of finite values
  double kurtosis = 0;                  ///< fourth standardized moment: 3 for a normal distribution; 0 for a constant
  std::uint64_t outliers = 0;           ///< finite values further than `outlier_sigmas` x stddev from the mean
  std::vector<ColumnPeak> top_columns;  ///< largest first; only of tensors with two dimensions
};

struct StatisticsOptions {
  ScanOptions scan;
  bool outliers = false;  ///< fill `outliers` and `top_columns`; reads the data twice
  double outlier_sigmas = 6.0;
  std::size_t top_columns = 5;
};

/// One entry for every numeric tensor, in their order. Moments are merged from blocks in float64 in a fixed order
/// (Pébay 2008, SAND2008-6212, pairwise update formulas), so the result does not depend on the number of threads.
std::vector<TensorStatistics> tensor_statistics(const LogicalTensors& tensors, const StatisticsOptions& options = {});

}  // namespace quant
