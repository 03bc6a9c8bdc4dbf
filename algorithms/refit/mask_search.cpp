#include "mask_search.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gptq/factor.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"
#include "shared/mask_selection.h"

namespace quant::refit {
namespace {

// The penalty, of the diagonal's unit, doubles after each stage.
constexpr double kFirstPenalty = 0.03;
constexpr int kStages = 8, kRoundsPerStage = 5;

class MaskSearch {
 public:
  MaskSearch(const Metric& metric, std::uint64_t rows, const SparsityPattern& pattern, const RunContext& context)
      : n_(metric.n), rows_(rows), pattern_(pattern), context_(context), roots_(n_), scaled_(n_ * n_) {
    for (std::uint64_t i = 0; i < n_; ++i) roots_[i] = std::sqrt(metric.inverse[i]);  // 0: no input ever
    each_row(n_, [&](std::uint64_t i) {
      for (std::uint64_t j = 0; j < n_; ++j) scaled_[i * n_ + j] = metric.gram[i * n_ + j] * roots_[i] * roots_[j];
      scaled_[i * n_ + i] = 1;  // with the damping
    });
  }

  bool run(std::span<const float> weight, std::span<std::uint8_t> mask) {
    const std::vector<std::uint8_t> before(mask.begin(), mask.end());
    start(weight);
    double penalty = kFirstPenalty;
    for (int stage = 0; stage < kStages; ++stage, penalty *= 2) {
      if (!invert(penalty)) {
        std::copy(before.begin(), before.end(), mask.begin());
        return false;
      }
      for (int round = 0; round < kRoundsPerStage; ++round) {
        if (context_.stop != nullptr && context_.stop->load()) {
          throw Error(ErrorCode::interrupted, "stopped while searching a mask");
        }
        std::copy(before.begin(), before.end(), mask.begin());
        step(static_cast<float>(penalty), mask);
      }
      each_row(rows_, [&](std::uint64_t r) {
        for (std::uint64_t i = r * n_; i < (r + 1) * n_; ++i) duals_[i] /= 2;  // in units of the penalty
      });
    }
    return true;
  }

 private:
  template <class Body>
  void each_row(std::uint64_t count, const Body& body) const {
    rtn::parallel_for(context_.threads, count, [&](std::size_t r) { body(r); });
  }

  void start(std::span<const float> weight) {
    masked_.assign(weight.begin(), weight.end());
    each_row(rows_, [&](std::uint64_t r) {
      for (std::uint64_t i = 0; i < n_; ++i) masked_[r * n_ + i] *= roots_[i] > 0 ? 1 / roots_[i] : 0.0F;
    });
    duals_.assign(weight.size(), 0.0F);
    target_.resize(weight.size());
    free_.resize(weight.size());
    sums_.resize(weight.size());
    product(masked_, scaled_, target_, rows_);
  }

  // c [rows, n] = a [rows, n] b [n, n]
  void product(std::span<const float> a, std::span<const float> b, std::span<float> c, std::uint64_t rows) const {
    gemm(rows, n_, n_, 1.0F, {a.data(), n_}, {b.data(), n_}, false, 0.0F, {c.data(), n_}, context_.threads);
  }

  // inverse_ = (H + penalty)^-1 = U^T U
  bool invert(double penalty) {
    std::vector<float> upper = scaled_;
    for (std::uint64_t i = 0; i < n_; ++i) upper[i * n_ + i] += static_cast<float>(penalty);
    if (!inverse_upper_factor(upper, n_, context_.threads) || !gptq::all_finite(upper)) return false;
    std::vector<float> lower(n_ * n_);
    each_row(n_, [&](std::uint64_t i) {
      for (std::uint64_t j = 0; j <= i; ++j) lower[i * n_ + j] = upper[j * n_ + i];
    });
    inverse_.resize(n_ * n_);
    product(lower, upper, inverse_, n_);
    return true;
  }

  void step(float penalty, std::span<std::uint8_t> mask) {
    each_row(rows_, [&](std::uint64_t r) {
      for (std::uint64_t i = r * n_; i < (r + 1) * n_; ++i) {
        sums_[i] = target_[i] + penalty * (masked_[i] - duals_[i]);
      }
    });
    product(sums_, inverse_, free_, rows_);
    const auto scores = [&](std::uint64_t row, std::span<float> out) {
      for (std::uint64_t i = 0; i < n_; ++i) out[i] = std::fabs(free_[row * n_ + i] + duals_[row * n_ + i]);
    };
    shared::remove_smallest(rows_, n_, scores, pattern_, shared::Compared::matrix, mask, context_.threads);
    each_row(rows_, [&](std::uint64_t r) {
      for (std::uint64_t i = r * n_; i < (r + 1) * n_; ++i) {
        const float sum = free_[i] + duals_[i];
        masked_[i] = mask[i] != 0 ? sum : 0.0F;
        duals_[i] = sum - masked_[i];
      }
    });
  }

  std::uint64_t n_, rows_;
  const SparsityPattern& pattern_;
  const RunContext& context_;
  std::vector<float> roots_;    // [n]: 1 / sqrt of the diagonal
  std::vector<float> scaled_;   // [n, n]: H with a diagonal of 1
  std::vector<float> inverse_;  // [n, n]
  // All [rows, n]; duals in units of the penalty.
  std::vector<float> target_, masked_, duals_, free_, sums_;
};

}  // namespace

bool search_mask(const Metric& metric, std::span<const float> weight, std::uint64_t rows,
                 const SparsityPattern& pattern, std::span<std::uint8_t> mask, const RunContext& context) {
  return MaskSearch(metric, rows, pattern, context).run(weight, mask);
}

std::uint64_t search_bytes(std::uint64_t rows, std::uint64_t n) {
  // H, its inverse, and two triangles; five matrices of the weight's size and the mask as it was.
  return 4 * n * n * sizeof(float) + rows * n * (5 * sizeof(float) + 1);
}

}  // namespace quant::refit
