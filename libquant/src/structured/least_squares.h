// The kept columns of a linear, fitted so that they stand in for the removed ones.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "quant/report.h"
#include "structured/axes.h"

namespace quant::structured {

/// What is known of a linear's inputs x and of what it should give. With a bias, a column of ones stands at the end of
/// x, and the bias at the end of each row of the weight.
struct FitProblem {
  std::uint64_t rows = 0, cols = 0;  ///< of the weight, the bias included
  bool bias = false;
  std::vector<float> weight;   ///< W [rows, cols]
  std::vector<float> gram;     ///< H = E[x x^T] [cols, cols]
  std::vector<float> cross;    ///< E[(f - x) x^T] [cols, cols] with f the unpruned model's inputs; empty: zeros
  std::vector<float> missing;  ///< E[(r - s) x^T] [rows, cols]: what else the output should add; empty: zeros
  Units kept;                  ///< columns, without that of the bias
  double damping = 0;          ///< fraction of the mean of H's diagonal over kept columns
};

struct Fit {
  std::vector<float> weight;  ///< V [rows, cols]: columns that are not kept are 0
  double damping = 0;         ///< the fraction that was used
  std::string fallback;       ///< why W's own columns were taken, or empty
};
/// V = argmin E||W f + r - s - V x||^2 + d ||V - W||^2 over weights whose removed columns are 0; the bias is free of
/// the second term. Damping grows where the matrix is not numerically positive definite.
Fit fit_columns(FitProblem& problem, int threads);
/// W without the columns that are not kept.
std::vector<float> without_columns(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols,
                                   const Units& kept, bool bias);
/// ||W x||^2 and ||W x - V x||^2 per token.
OutputErrors output_errors(std::span<const float> weight, std::span<const float> fitted, std::uint64_t rows,
                           std::span<const float> gram, std::uint64_t cols, int threads);

}  // namespace quant::structured
