#include "pipeline/statistics_collector.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quant {

namespace {
// Columns that one thread sums: two cache lines of a row.
constexpr std::uint64_t kColumns = 32;
}  // namespace

StatisticsCollector::StatisticsCollector(std::uint64_t cols, const CalibrationNeeds& needs, ProductType product,
                                         std::uint64_t outputs)
    : needs_(needs) {
  statistics_.cols = cols;
  if (needs.absmax) {
    statistics_.minimum.assign(cols, std::numeric_limits<float>::infinity());
    statistics_.maximum.assign(cols, -std::numeric_limits<float>::infinity());
  }
  if (needs.mean_abs) sum_abs_.assign(cols, 0.0);
  if (needs.mean) sum_.assign(cols, 0.0);
  if (needs.square) sum_square_.assign(cols, 0.0);
  if (needs.gram || needs.cross_gram || needs.residual) {
    gram_.emplace(cols, product, needs.cross_gram, needs.residual ? outputs : 0);
  }
}

void StatisticsCollector::add(std::span<const float> x, std::span<const float> reference, std::uint64_t count,
                              int threads, const ResidualRows& residual) {
  if (count == 0) return;
  if (needs_.absmax || needs_.mean_abs || needs_.mean || needs_.square) add_ranges(x, count, threads);
  if (needs_.rows) add_rows(x, count);
  if (gram_) gram_->add(x, reference, residual.reference, residual.own, count, threads);
  statistics_.tokens += count;
}

void StatisticsCollector::add_ranges(std::span<const float> x, std::uint64_t count, int threads) {
  const std::uint64_t cols = statistics_.cols;
  const auto blocks = static_cast<std::int64_t>((cols + kColumns - 1) / kColumns);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::uint64_t begin = static_cast<std::uint64_t>(block) * kColumns;
    const std::uint64_t end = std::min(cols, begin + kColumns);
    for (std::uint64_t r = 0; r < count; ++r) {
      const float* row = x.data() + r * cols;
      if (needs_.absmax) {
        for (std::uint64_t c = begin; c < end; ++c) {
          statistics_.minimum[c] = std::min(statistics_.minimum[c], row[c]);
          statistics_.maximum[c] = std::max(statistics_.maximum[c], row[c]);
        }
      }
      if (needs_.mean_abs) {
        for (std::uint64_t c = begin; c < end; ++c) sum_abs_[c] += std::fabs(static_cast<double>(row[c]));
      }
      if (needs_.mean) {
        for (std::uint64_t c = begin; c < end; ++c) sum_[c] += static_cast<double>(row[c]);
      }
      if (needs_.square) {
        for (std::uint64_t c = begin; c < end; ++c) {
          sum_square_[c] += static_cast<double>(row[c]) * static_cast<double>(row[c]);
        }
      }
    }
  }
}

// Every row_distance_-th row; when there are too many, every other one is dropped and the distance doubles.
void StatisticsCollector::add_rows(std::span<const float> x, std::uint64_t count) {
  const std::uint64_t cols = statistics_.cols;
  std::vector<float>& rows = statistics_.rows;
  for (std::uint64_t r = 0; r < count; ++r) {
    if ((statistics_.tokens + r) % row_distance_ != 0) continue;
    if (rows.size() == kSampleRows * cols) {
      for (std::uint64_t k = 1; k < kSampleRows / 2; ++k) {
        std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(2 * k * cols), cols,
                    rows.begin() + static_cast<std::ptrdiff_t>(k * cols));
      }
      rows.resize(kSampleRows / 2 * cols);
      row_distance_ *= 2;
      if ((statistics_.tokens + r) % row_distance_ != 0) continue;
    }
    rows.insert(rows.end(), x.begin() + static_cast<std::ptrdiff_t>(r * cols),
                x.begin() + static_cast<std::ptrdiff_t>((r + 1) * cols));
  }
}

std::vector<float> StatisticsCollector::means(const std::vector<double>& sums) const {
  const double tokens = static_cast<double>(std::max<std::uint64_t>(statistics_.tokens, 1));
  std::vector<float> result;
  for (const double sum : sums) result.push_back(static_cast<float>(sum / tokens));
  return result;
}

InputStatistics StatisticsCollector::take(int threads) {
  const std::uint64_t cols = statistics_.cols;
  if (needs_.absmax) {
    if (statistics_.tokens == 0) {
      statistics_.minimum.assign(cols, 0.0F);
      statistics_.maximum.assign(cols, 0.0F);
    }
    statistics_.absmax.resize(cols);
    for (std::uint64_t c = 0; c < cols; ++c) {
      statistics_.absmax[c] = std::max(std::fabs(statistics_.minimum[c]), std::fabs(statistics_.maximum[c]));
    }
  }
  statistics_.mean_abs = means(sum_abs_);
  statistics_.mean = means(sum_);
  statistics_.square = means(sum_square_);
  if (needs_.cross_gram) statistics_.cross_gram = gram_->take_cross(threads);
  if (needs_.residual) statistics_.residual = gram_->take_outputs(threads);
  if (gram_) statistics_.gram = gram_->take_gram(threads);
  gram_.reset();
  return std::move(statistics_);
}

}  // namespace quant
