#include "quant/calibrated.h"
#include "quant/error.h"

namespace quant {

CalibrationNeeds& CalibrationNeeds::operator|=(const CalibrationNeeds& other) {
  absmax = absmax || other.absmax;
  mean_abs = mean_abs || other.mean_abs;
  mean = mean || other.mean;
  square = square || other.square;
  gram = gram || other.gram;
  cross_gram = cross_gram || other.cross_gram;
  residual = residual || other.residual;
  rows = rows || other.rows;
  return *this;
}

double CalibratedQuantizer::operations(std::uint64_t rows, std::uint64_t cols, const CalibrationNeeds& parts) const {
  if (!parts.gram) return 0;
  const auto n = static_cast<double>(cols);
  return n * n * n * 2 / 3 + static_cast<double>(rows) * n * n;
}

void rescale(InputStatistics& statistics, std::span<const float> s) {
  const std::uint64_t cols = statistics.cols;
  if (s.size() != cols) throw Error(ErrorCode::internal, "smoothing factors do not fit the inputs");
  const auto divide_columns = [&](std::vector<float>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] /= s[i % cols];
  };
  const auto divide_both = [&](std::vector<float>& matrix) {
    if (matrix.empty()) return;
    for (std::uint64_t r = 0; r < cols; ++r) {
      for (std::uint64_t c = 0; c < cols; ++c) matrix[r * cols + c] /= s[r] * s[c];
    }
  };
  divide_columns(statistics.absmax);
  divide_columns(statistics.minimum);
  divide_columns(statistics.maximum);
  divide_columns(statistics.mean_abs);
  divide_columns(statistics.mean);
  for (int twice = 0; twice < 2; ++twice) divide_columns(statistics.square);
  divide_columns(statistics.rows);
  divide_columns(statistics.residual);
  divide_both(statistics.gram);
  divide_both(statistics.cross_gram);
}

}  // namespace quant
