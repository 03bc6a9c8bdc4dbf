#include "factor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "quant/linalg.h"
#include "rtn/parallel_for.h"

namespace quant::gptq {
namespace {

// Mean over the columns that are used; 0 if there are none.
double mean_diagonal(std::span<const float> diagonal) {
  double sum = 0;
  std::uint64_t used = 0;
  for (const float value : diagonal) {
    if (!(value > 0)) continue;
    sum += value;
    ++used;
  }
  return used == 0 ? 0 : sum / static_cast<double>(used);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

// One way to make H positive definite.
struct Attempt {
  double damping = 0;  // of the mean diagonal
  double floor = 0;    // least diagonal element, in means
};

std::vector<Attempt> ladder(const GptqOptions& options, double largest) {
  std::vector<Attempt> attempts{{options.dampening_frac, 0}};
  for (double step = options.dampening_increment; attempts.back().damping + step <= 1; step *= 2) {
    attempts.push_back({attempts.back().damping + step, 0});
  }
  const double damping = attempts.back().damping;
  double floor = 1e-6 * largest;
  for (int i = 0; i < 6; ++i, floor *= 10) attempts.push_back({damping, floor});
  return attempts;
}

// H / unit in the order of coding, with the attempt's diagonal.
class PermutedGram {
 public:
  PermutedGram(std::span<const float> gram, std::span<const std::uint32_t> columns)
      : gram_(gram), columns_(columns), diagonal_(diagonal_of(gram, columns.size())) {
    const double mean = mean_diagonal(diagonal_);
    int exponent = 0;
    std::frexp(mean, &exponent);
    exponent = std::clamp(exponent, -120, 120);
    unit_ = std::ldexp(1.0F, exponent);
    mean_ = mean / unit_;
  }

  float unit() const { return unit_; }
  double mean() const { return mean_; }
  double largest() const { return *std::max_element(diagonal_.begin(), diagonal_.end()) / unit_ / mean_; }

  void fill(const Attempt& attempt, std::span<float> out, int threads) const {
    const std::uint64_t n = columns_.size();
    const float inverse = 1.0F / unit_;
    rtn::parallel_for(threads, n, [&](std::size_t p) {
      const std::uint64_t row = columns_[p];
      const bool used = diagonal_[row] > 0;
      float* to = out.data() + p * n;
      for (std::uint64_t k = 0; k < n; ++k) {
        const std::uint64_t col = columns_[k];
        to[k] = used && diagonal_[col] > 0 ? gram_[row * n + col] * inverse : 0.0F;
      }
      const double own = used ? static_cast<double>(to[p]) : mean_;
      to[p] = static_cast<float>(std::max(own + attempt.damping * mean_, attempt.floor * mean_));
    });
  }

 private:
  std::span<const float> gram_;
  std::span<const std::uint32_t> columns_;
  std::vector<float> diagonal_;
  float unit_ = 1;
  double mean_ = 0;
};

// A factor of a matrix that is only just definite can overflow.
bool usable(std::span<const float> upper, std::uint64_t n) {
  for (std::uint64_t i = 0; i < n; ++i) {
    const float d = upper[i * n + i];
    if (!(d > 0) || !std::isfinite(d)) return false;
  }
  return all_finite(upper);
}

}  // namespace

std::vector<std::uint32_t> dead_columns(std::span<const float> diagonal) {
  std::vector<std::uint32_t> dead;
  for (std::uint32_t c = 0; c < diagonal.size(); ++c) {
    if (!(diagonal[c] > 0)) dead.push_back(c);
  }
  return dead;
}

std::vector<float> diagonal_of(std::span<const float> matrix, std::uint64_t n) {
  std::vector<float> diagonal(n);
  for (std::uint64_t i = 0; i < n; ++i) diagonal[i] = matrix[i * n + i];
  return diagonal;
}

bool all_finite(std::span<const float> values) {
  bool finite = true;
  for (const float value : values) finite &= std::fabs(value) <= std::numeric_limits<float>::max();
  return finite;
}

Factor factorize(std::span<const float> gram, std::span<const std::uint32_t> columns, const GptqOptions& options,
                 int threads) {
  Factor factor;
  const std::uint64_t n = columns.size();
  const PermutedGram permuted(gram, columns);
  factor.unit = permuted.unit();
  factor.mean = permuted.mean() * permuted.unit();
  if (!(permuted.mean() > 0)) {
    factor.failure = "all inputs are 0";
    return factor;
  }
  factor.upper.resize(n * n);
  for (const Attempt& attempt : ladder(options, permuted.largest())) {
    permuted.fill(attempt, factor.upper, threads);
    if (!inverse_upper_factor(factor.upper, n, threads) || !usable(factor.upper, n)) continue;
    factor.damping = attempt.damping;
    if (attempt.damping != options.dampening_frac) {
      factor.notes.push_back("H is not positive definite with a damping of " + short_number(options.dampening_frac) +
                             ": " + short_number(attempt.damping) + " was used");
    }
    if (attempt.floor > 0) {
      factor.notes.push_back("no diagonal element of H is below " + short_number(attempt.floor) + " of the mean");
    }
    return factor;
  }
  factor.upper.clear();
  factor.failure = "H is not positive definite with any damping up to 1";
  return factor;
}

}  // namespace quant::gptq
