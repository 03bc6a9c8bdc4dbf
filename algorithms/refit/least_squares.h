// Least squares of the kept weights of some rows, all rows at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/refit.h"

namespace quant::refit {

/// H' as the solvers read it.
struct Metric {
  std::span<const float> gram;  ///< [n, n], without damping
  float damping = 0;            ///< what each diagonal element gets in addition
  std::vector<float> inverse;   ///< [n]: of the diagonal with the damping; 0 where that is 0
  std::uint64_t n = 0;
};
Metric make_metric(std::span<const float> gram, std::uint64_t n, double dampening_frac);

/// out [rows, n] = rows of `in` times H'.
void times_metric(const Metric& metric, std::span<const float> in, std::uint64_t rows, std::span<float> out,
                  int threads);

/// Some rows of a weight. `pruned` is where the search starts and what it ends with.
struct Rows {
  std::uint64_t count = 0;
  std::span<float> pruned;             ///< [count, n]
  std::span<const std::uint8_t> mask;  ///< [count, n]
  std::span<float> target;             ///< [count, n]: T H'; destroyed
};

/// What became of them.
struct Outcome {
  std::uint64_t iterations = 0;  ///< of the row that took most
  std::uint64_t unfinished = 0;  ///< rows whose residual is above the tolerance
};

/// Preconditioned conjugate gradients: pruned H' = target wherever the mask is 1.
Outcome solve_rows(const Metric& metric, const Rows& rows, double tolerance, std::uint64_t iterations, int threads);
/// The best factor of each row.
void scale_rows(const Metric& metric, const Rows& rows, int threads);

}  // namespace quant::refit
