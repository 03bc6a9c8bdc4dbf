// Sums over rows of activations, column by column, the same for any number of threads and division into calls.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace quant::structured {

class ChannelSums {
 public:
  explicit ChannelSums(std::uint64_t cols) : sum_(cols), square_(cols), absolute_(cols), score_(cols) {}

  /// Rows x [count, cols], all of one sequence; a sequence's rows come in one call.
  void add_sequence(std::span<const float> x, std::uint64_t count, int threads);
  std::uint64_t rows() const { return rows_; }
  /// Minitron: sqrt of the sum over sequences of (mean over the sequence's rows of |x|)^2.
  std::vector<double> aggregated() const;
  std::vector<double> means() const;
  std::vector<double> variances() const;

 private:
  std::vector<double> sum_, square_;
  std::vector<double> absolute_;  // of the present sequence
  std::vector<double> score_;
  std::uint64_t rows_ = 0;
};

/// L2 norm of each piece of `size` columns: [count, pieces].
std::vector<float> piece_norms(std::span<const float> x, std::uint64_t count, std::uint64_t size, int threads);

/// Sums of squares of a weight [rows, cols]: of each row and of each column.
struct Energies {
  std::vector<double> rows, cols;
};
Energies energies_of(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols, int threads);

}  // namespace quant::structured
