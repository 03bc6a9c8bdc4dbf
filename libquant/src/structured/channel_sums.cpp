#include "structured/channel_sums.h"

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"

namespace quant::structured {
namespace {

using linalg::for_tasks;
using linalg::pieces;

constexpr std::uint64_t kColumns = 64;  // of a task: a few cache lines of each row
constexpr std::uint64_t kRows = 64;

}  // namespace

void ChannelSums::add_sequence(std::span<const float> x, std::uint64_t count, int threads) {
  const std::uint64_t cols = sum_.size();
  if (count == 0) return;
  for_tasks(threads, pieces(cols, kColumns), [&](std::size_t task) {
    const std::uint64_t first = task * kColumns, last = std::min(cols, first + kColumns);
    std::fill(absolute_.begin() + static_cast<std::ptrdiff_t>(first),
              absolute_.begin() + static_cast<std::ptrdiff_t>(last), 0.0);
    for (std::uint64_t r = 0; r < count; ++r) {
      const float* row = x.data() + r * cols;
      for (std::uint64_t c = first; c < last; ++c) {
        const double value = row[c];
        sum_[c] += value;
        square_[c] += value * value;
        absolute_[c] += std::abs(value);
      }
    }
    for (std::uint64_t c = first; c < last; ++c) {
      const double mean = absolute_[c] / static_cast<double>(count);
      score_[c] += mean * mean;
    }
  });
  rows_ += count;
}

std::vector<double> ChannelSums::aggregated() const {
  std::vector<double> result(score_.size());
  for (std::size_t c = 0; c < result.size(); ++c) result[c] = std::sqrt(score_[c]);
  return result;
}

std::vector<double> ChannelSums::means() const {
  std::vector<double> result(sum_.size());
  for (std::size_t c = 0; rows_ > 0 && c < result.size(); ++c) result[c] = sum_[c] / static_cast<double>(rows_);
  return result;
}

std::vector<double> ChannelSums::variances() const {
  const std::vector<double> mean = means();
  std::vector<double> result(sum_.size());
  for (std::size_t c = 0; rows_ > 0 && c < result.size(); ++c) {
    const double value = square_[c] / static_cast<double>(rows_) - mean[c] * mean[c];
    // Rounding must not make a variance negative, nor a number of what is none.
    result[c] = value < 0 ? 0 : value;
  }
  return result;
}

std::vector<float> piece_norms(std::span<const float> x, std::uint64_t count, std::uint64_t size, int threads) {
  std::vector<float> norms(x.size() / size);
  const std::uint64_t in_row = count == 0 ? 0 : norms.size() / count;
  for_tasks(threads, pieces(count, kRows), [&](std::size_t task) {
    const std::uint64_t last = std::min<std::uint64_t>(norms.size(), (task + 1) * kRows * in_row);
    for (std::uint64_t p = task * kRows * in_row; p < last; ++p) {
      double sum = 0;
      for (std::uint64_t c = 0; c < size; ++c) {
        const double value = x[p * size + c];
        sum += value * value;
      }
      norms[p] = static_cast<float>(std::sqrt(sum));
    }
  });
  return norms;
}

Energies energies_of(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols, int threads) {
  const std::uint64_t tasks = pieces(rows, 4 * kRows);
  Energies result{std::vector<double>(rows), std::vector<double>(cols)};
  std::vector<std::vector<double>> parts(tasks);
  for_tasks(threads, tasks, [&](std::size_t task) {
    std::vector<double>& part = parts[task];
    part.resize(cols);
    for (std::uint64_t r = task * 4 * kRows; r < std::min(rows, (task + 1) * 4 * kRows); ++r) {
      double sum = 0;
      for (std::uint64_t c = 0; c < cols; ++c) {
        const double value = weight[r * cols + c];
        part[c] += value * value;
        sum += value * value;
      }
      result.rows[r] = sum;
    }
  });
  for (const auto& part : parts) {
    for (std::uint64_t c = 0; c < cols; ++c) result.cols[c] += part[c];
  }
  return result;
}

}  // namespace quant::structured
