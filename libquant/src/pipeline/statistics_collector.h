// Collects what algorithms need to know of the inputs of linears.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "quant/calibrated.h"
#include "quant/linalg.h"

namespace quant {

/// The residual stream at rows of x [count, outputs]: in the unquantized model and in the quantized one.
struct ResidualRows {
  std::span<const float> reference, own;
};

/// Accumulates InputStatistics over calls, for the needs given. The result depends on the rows alone, neither on
/// their division into calls nor on the number of threads.
class StatisticsCollector {
 public:
  /// `outputs`: columns of the residual stream, if needs.residual.
  StatisticsCollector(std::uint64_t cols, const CalibrationNeeds& needs, ProductType product,
                      std::uint64_t outputs = 0);

  /// Rows x [count, cols]. `reference` [count, cols]: the same rows in the unquantized model, if cross_gram is needed.
  void add(std::span<const float> x, std::span<const float> reference, std::uint64_t count, int threads,
           const ResidualRows& residual = {});
  /// Moves out what was collected.
  InputStatistics take(int threads);

 private:
  void add_ranges(std::span<const float> x, std::uint64_t count, int threads);
  std::vector<float> means(const std::vector<double>& sums) const;
  void add_rows(std::span<const float> x, std::uint64_t count);

  CalibrationNeeds needs_;
  InputStatistics statistics_;
  std::vector<double> sum_abs_, sum_, sum_square_;  // of columns, where they are needed
  std::optional<GramAccumulator> gram_;
  std::uint64_t row_distance_ = 1;
};

}  // namespace quant
