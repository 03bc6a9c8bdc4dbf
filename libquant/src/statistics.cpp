#include "quant/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "parallel_tasks.h"

namespace quant {
namespace {

// Count, mean and sums of powers of the distance to it.
struct Moments {
  double n = 0, mean = 0, m2 = 0, m3 = 0, m4 = 0;

  void merge(const Moments& b) {
    if (b.n == 0) return;
    const double total = n + b.n;
    const double d = b.mean - mean;
    const double d2 = d * d;
    const double nn = n * b.n;
    const double new_m4 = m4 + b.m4 + d2 * d2 * nn * (n * n - nn + b.n * b.n) / (total * total * total) +
                          6.0 * d2 * (n * n * b.m2 + b.n * b.n * m2) / (total * total) +
                          4.0 * d * (n * b.m3 - b.n * m3) / total;
    const double new_m3 =
        m3 + b.m3 + d2 * d * nn * (n - b.n) / (total * total) + 3.0 * d * (n * b.m2 - b.n * m2) / total;
    m2 += b.m2 + d2 * nn / total;
    m3 = new_m3;
    m4 = new_m4;
    mean += d * b.n / total;
    n = total;
  }
};

struct BlockStatistics {
  Moments moments;
  std::uint64_t zeros = 0, nans = 0, infinities = 0;
  std::optional<std::uint64_t> first_bad;
  float min = std::numeric_limits<float>::infinity();
  float max = -std::numeric_limits<float>::infinity();
};

void count_special(float value, std::uint64_t at, BlockStatistics& block) {
  (std::isnan(value) ? block.nans : block.infinities) += 1;
  if (!block.first_bad) block.first_bad = at;
}

BlockStatistics summarize_block(std::span<const float> values, std::uint64_t first) {
  BlockStatistics block;
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float v = values[i];
    if (!std::isfinite(v)) {
      count_special(v, first + i, block);
      continue;
    }
    sum += v;
    block.moments.n += 1;
    block.zeros += v == 0.0F ? 1 : 0;
    block.min = std::min(block.min, v);
    block.max = std::max(block.max, v);
  }
  if (block.moments.n == 0) return block;
  block.moments.mean = sum / block.moments.n;
  for (const float v : values) {
    if (!std::isfinite(v)) continue;
    const double d = v - block.moments.mean;
    const double d2 = d * d;
    block.moments.m2 += d2;
    block.moments.m3 += d2 * d;
    block.moments.m4 += d2 * d2;
  }
  return block;
}

// A pass over blocks of all numeric tensors; block.tensor is the place in the list of results.
class StatisticsScan {
 public:
  StatisticsScan(const LogicalTensors& tensors, const StatisticsOptions& options)
      : tensors_(tensors), options_(options) {
    for (std::size_t i = 0; i < tensors.tensors().size(); ++i) {
      const LogicalTensor& tensor = tensors.tensors()[i];
      if (!tensor.numeric) continue;
      append_blocks(results_.size(), tensor.rows, tensors.block_rows(tensor), blocks_);
      results_.emplace_back();
      results_.back().tensor = i;
      results_.back().count = tensor.count();
    }
    for (const RowBlock& block : blocks_) costs_.push_back(block.count * tensor_of(block).cols);
  }

  std::vector<TensorStatistics> run() {
    measure_moments();
    if (options_.outliers) measure_outliers();
    return std::move(results_);
  }

 private:
  const LogicalTensor& tensor_of(const RowBlock& block) const {
    return tensors_.tensors()[results_[block.tensor].tensor];
  }

  std::vector<float> read(const RowBlock& block) const {
    std::vector<float> values(block.count * tensor_of(block).cols);
    tensors_.read_rows(tensor_of(block), block.first, block.count, values);
    tensors_.done_reading(tensor_of(block), block.first, block.count);
    return values;
  }

  // The passes share one progress count.
  ScanOptions pass_options(std::uint64_t pass) const {
    ScanOptions scan = options_.scan;
    if (!scan.progress) return scan;
    const std::uint64_t passes = options_.outliers ? 2 : 1;
    scan.progress = [inner = options_.scan.progress, pass, passes](std::uint64_t done, std::uint64_t total) {
      inner(pass * total + done, passes * total);
    };
    return scan;
  }

  void measure_moments() {
    std::vector<BlockStatistics> parts(blocks_.size());
    run_tasks(costs_, pass_options(0), [&](std::size_t i) {
      parts[i] = summarize_block(read(blocks_[i]), blocks_[i].first * tensor_of(blocks_[i]).cols);
    });
    for (std::size_t i = 0; i < parts.size();) {
      BlockStatistics whole = parts[i];
      const std::size_t tensor = blocks_[i].tensor;
      for (++i; i < parts.size() && blocks_[i].tensor == tensor; ++i) merge(parts[i], whole);
      store(whole, results_[tensor]);
    }
  }

  static void merge(const BlockStatistics& part, BlockStatistics& whole) {
    whole.moments.merge(part.moments);
    whole.zeros += part.zeros;
    whole.nans += part.nans;
    whole.infinities += part.infinities;
    if (!whole.first_bad) whole.first_bad = part.first_bad;
    whole.min = std::min(whole.min, part.min);
    whole.max = std::max(whole.max, part.max);
  }

  static void store(const BlockStatistics& whole, TensorStatistics& result) {
    result.zeros = whole.zeros;
    result.nans = whole.nans;
    result.infinities = whole.infinities;
    result.first_bad = whole.first_bad;
    const Moments& m = whole.moments;
    if (m.n == 0) return;
    result.min = whole.min;
    result.max = whole.max;
    result.absmax = std::max(std::abs(whole.min), std::abs(whole.max));
    result.mean = m.mean;
    result.stddev = std::sqrt(m.m2 / m.n);
    result.kurtosis = m.m2 > 0 ? m.n * m.m4 / (m.m2 * m.m2) : 0.0;
  }

  void measure_outliers() {
    std::vector<std::uint64_t> counts(blocks_.size(), 0);
    std::vector<std::vector<float>> peaks(results_.size());
    for (const RowBlock& block : blocks_) {
      if (tensor_of(block).shape.size() == 2) peaks[block.tensor].resize(tensor_of(block).cols, 0.0F);
    }
    std::mutex mutex;
    run_tasks(costs_, pass_options(1), [&](std::size_t i) {
      const std::vector<float> values = read(blocks_[i]);
      counts[i] = count_outliers(values, results_[blocks_[i].tensor]);
      std::vector<float>& columns = peaks[blocks_[i].tensor];
      if (columns.empty()) return;
      const std::vector<float> block_peaks = column_peaks(values, columns.size());
      const std::lock_guard lock(mutex);
      std::transform(columns.begin(), columns.end(), block_peaks.begin(), columns.begin(),
                     [](float a, float b) { return std::max(a, b); });
    });
    for (std::size_t i = 0; i < blocks_.size(); ++i) results_[blocks_[i].tensor].outliers += counts[i];
    for (std::size_t i = 0; i < results_.size(); ++i) results_[i].top_columns = top_of(peaks[i]);
  }

  std::uint64_t count_outliers(std::span<const float> values, const TensorStatistics& result) const {
    const double limit = options_.outlier_sigmas * result.stddev;
    return static_cast<std::uint64_t>(std::count_if(
        values.begin(), values.end(), [&](float v) { return std::isfinite(v) && std::abs(v - result.mean) > limit; }));
  }

  static std::vector<float> column_peaks(std::span<const float> values, std::size_t cols) {
    std::vector<float> peaks(cols, 0.0F);
    for (std::size_t at = 0; at < values.size(); at += cols) {
      for (std::size_t c = 0; c < cols; ++c) {
        const float magnitude = std::abs(values[at + c]);
        if (std::isfinite(magnitude)) peaks[c] = std::max(peaks[c], magnitude);
      }
    }
    return peaks;
  }

  std::vector<ColumnPeak> top_of(const std::vector<float>& peaks) const {
    std::vector<ColumnPeak> columns;
    for (std::size_t c = 0; c < peaks.size(); ++c) columns.push_back({c, peaks[c]});
    const std::size_t kept = std::min(columns.size(), options_.top_columns);
    std::partial_sort(columns.begin(), columns.begin() + static_cast<std::ptrdiff_t>(kept), columns.end(),
                      [](const ColumnPeak& a, const ColumnPeak& b) {
                        return a.absmax != b.absmax ? a.absmax > b.absmax : a.column < b.column;
                      });
    columns.resize(kept);
    return columns;
  }

  const LogicalTensors& tensors_;
  const StatisticsOptions& options_;
  std::vector<TensorStatistics> results_;
  std::vector<RowBlock> blocks_;
  std::vector<std::uint64_t> costs_;
};

}  // namespace

std::vector<TensorStatistics> tensor_statistics(const LogicalTensors& tensors, const StatisticsOptions& options) {
  return StatisticsScan(tensors, options).run();
}

}  // namespace quant
