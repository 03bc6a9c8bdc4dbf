#include "structured/least_squares.h"

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"
#include "quant/linalg.h"

namespace quant::structured {
namespace {

constexpr double kLargestDamping = 1;

// Kept columns, and that of the bias.
Units fitted_columns(const Units& kept, std::uint64_t cols, bool bias) {
  Units columns = kept;
  if (bias) columns.push_back(static_cast<std::uint32_t>(cols - 1));
  return columns;
}

// W (H + D)[:, S] + R[:, S] [rows, |S|].
std::vector<float> targets(const FitProblem& p, const Units& columns, int threads) {
  const std::uint64_t n = columns.size();
  std::vector<float> inner(p.cols * n);
  linalg::for_tasks(threads, linalg::pieces(p.cols, 64), [&](std::size_t task) {
    for (std::uint64_t r = task * 64; r < std::min(p.cols, (task + 1) * 64); ++r) {
      for (std::uint64_t c = 0; c < n; ++c) {
        const std::uint64_t at = r * p.cols + columns[c];
        inner[r * n + c] = p.gram[at] + (p.cross.empty() ? 0.0F : p.cross[at]);
      }
    }
  });
  std::vector<float> result(p.rows * n);
  if (!p.missing.empty()) {
    for (std::uint64_t r = 0; r < p.rows; ++r) {
      for (std::uint64_t c = 0; c < n; ++c) result[r * n + c] = p.missing[r * p.cols + columns[c]];
    }
  }
  gemm(p.rows, n, p.cols, 1.0F, {p.weight.data(), p.cols}, {inner.data(), n}, false, 1.0F, {result.data(), n}, threads);
  return result;
}

double mean_diagonal(const FitProblem& p) {
  double sum = 0;
  for (const std::uint32_t c : p.kept) sum += p.gram[c * p.cols + c];
  return p.kept.empty() ? 0 : sum / static_cast<double>(p.kept.size());
}

}  // namespace

std::vector<float> without_columns(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols,
                                   const Units& kept, bool bias) {
  std::vector<float> result(weight.size());
  for (const std::uint32_t c : fitted_columns(kept, cols, bias)) {
    for (std::uint64_t r = 0; r < rows; ++r) result[r * cols + c] = weight[r * cols + c];
  }
  return result;
}

Fit fit_columns(FitProblem& p, int threads) {
  const Units columns = fitted_columns(p.kept, p.cols, p.bias);
  const std::uint64_t n = columns.size();
  Fit fit;
  const double scale = mean_diagonal(p);
  if (!(scale > 0)) {
    fit.fallback = scale == 0 ? "its inputs are all zero" : "its inputs are not all finite";
    fit.weight = without_columns(p.weight, p.rows, p.cols, p.kept, p.bias);
    return fit;
  }
  const std::vector<float> target = targets(p, columns, threads);
  for (double damping = p.damping; damping <= kLargestDamping; damping = damping == 0 ? 1e-4 : 10 * damping) {
    const auto lambda = static_cast<float>(damping * scale);
    std::vector<float> factor(n * n);
    for (std::uint64_t r = 0; r < n; ++r) {
      for (std::uint64_t c = 0; c < n; ++c) factor[r * n + c] = p.gram[columns[r] * p.cols + columns[c]];
      if (r < p.kept.size()) factor[r * n + r] += lambda;
    }
    if (!inverse_upper_factor(factor, n, threads)) continue;
    std::vector<float> right = target;
    for (std::uint64_t r = 0; r < p.rows; ++r) {
      for (std::uint64_t c = 0; c < p.kept.size(); ++c) right[r * n + c] += lambda * p.weight[r * p.cols + columns[c]];
    }
    // V = (T U^T) U, since the inverse is U^T U.
    std::vector<float> half(p.rows * n);
    gemm(p.rows, n, n, 1.0F, {right.data(), n}, {factor.data(), n}, true, 0.0F, {half.data(), n}, threads);
    gemm(p.rows, n, n, 1.0F, {half.data(), n}, {factor.data(), n}, false, 0.0F, {right.data(), n}, threads);
    if (!std::all_of(right.begin(), right.end(), [](float value) { return std::isfinite(value); })) continue;
    fit.damping = damping;
    fit.weight.assign(p.weight.size(), 0.0F);
    for (std::uint64_t r = 0; r < p.rows; ++r) {
      for (std::uint64_t c = 0; c < n; ++c) fit.weight[r * p.cols + columns[c]] = right[r * n + c];
    }
    return fit;
  }
  fit.fallback = "the Gram matrix of its inputs is not positive definite";
  fit.weight = without_columns(p.weight, p.rows, p.cols, p.kept, p.bias);
  return fit;
}

OutputErrors output_errors(std::span<const float> weight, std::span<const float> fitted, std::uint64_t rows,
                           std::span<const float> gram, std::uint64_t cols, int threads) {
  std::vector<float> difference(weight.begin(), weight.end());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= fitted[i];
  const auto total = [&](std::span<const float> matrix) {
    std::vector<double> of_rows(rows);
    quadratic_forms(matrix, rows, gram, cols, of_rows, threads);
    double sum = 0;
    for (const double row : of_rows) sum += row;
    return sum;
  };
  OutputErrors errors;
  errors.signal = total(weight);
  errors.recon = total(fitted);
  errors.noise = total(difference);
  errors.dot = (errors.signal + errors.recon - errors.noise) / 2;
  return errors;
}

}  // namespace quant::structured
