// Triangular factors in place, by blocks. H^-1 = U^T U means H = R R^T with R = U^-1 upper triangular: R is the
// Cholesky factor that begins at the last row, and U its inverse. That is 2/3 n^3 operations, where inverting H and
// factoring the inverse takes 4/3 n^3, and H^-1 with its larger errors never appears.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "linalg/check.h"
#include "linalg/onednn.h"
#include "linalg/parallel.h"
#include "linalg/small_factor.h"
#include "quant/linalg.h"

namespace quant {
namespace {

using linalg::for_tasks;
using linalg::pieces;
using linalg::Sgemm;

constexpr std::uint64_t kBlock = 128;
// Rows of a task: taller products are faster (200 GFLOP/s with 128 rows, 232 with 256, 242 with 512 on Zen 5).
constexpr std::uint64_t kRows = 256;

// A factorization that goes through the diagonal blocks forwards (lower factor) or backwards (upper factor). Backwards,
// a diagonal block is turned by 180 degrees, which makes the same elimination of it.
class Factorization {
 public:
  Factorization(float* h, std::uint64_t n, bool backwards, int threads)
      : h_(h),
        n_(n),
        blocks_(pieces(n, kBlock)),
        backwards_(backwards),
        threads_(threads),
        block_(kBlock * kBlock),
        block_inverse_(kBlock * kBlock),
        inverse_(kBlock * kBlock),
        least_pivot_(n) {
    const double part = std::numeric_limits<float>::epsilon() * std::max(4.0, std::sqrt(static_cast<double>(n)));
    for (std::uint64_t i = 0; i < n; ++i) least_pivot_[i] = part * static_cast<double>(h[i * n + i]);
  }

  /// L below the diagonal (forwards) or R above it (backwards). The diagonal blocks hold their factors, or the inverses
  /// of these if `inverse_blocks`.
  bool run(bool inverse_blocks) {
    for (std::uint64_t step = 0; step < blocks_; ++step) {
      const std::uint64_t b = backwards_ ? blocks_ - 1 - step : step;
      subtract_finished(b);
      if (!factor_block(b, inverse_blocks)) return false;
      multiply_panel(b);
    }
    return true;
  }

  /// Turns R with inverse diagonal blocks into R^-1. Below the diagonal there must be zeros.
  void invert() {
    std::vector<float> panel(n_ * kBlock);
    for (std::uint64_t b = 1; b < blocks_; ++b) {
      const std::uint64_t cols = size(b);
      const std::uint64_t end = b * kBlock;
      const float* block = h_ + end * n_ + end;
      for_tasks(threads_, pieces(end, kRows), [&](std::size_t task) {
        const std::uint64_t i = task * kRows;
        Sgemm{.alpha = -1.0F}(std::min(kRows, end - i), cols, cols, h_ + i * n_ + end, n_, block, n_,
                              panel.data() + i * cols, cols);
      });
      for_tasks(threads_, pieces(end, kRows), [&](std::size_t task) {
        const std::uint64_t i = task * kRows;
        Sgemm{}(std::min(kRows, end - i), cols, end - i, h_ + i * n_ + i, n_, panel.data() + i * cols, cols,
                h_ + i * n_ + end, n_);
      });
    }
  }

  /// Zeros on the other side of the diagonal.
  void clear_other_side() {
    for_tasks(threads_, blocks_, [&](std::size_t b) {
      for (std::uint64_t i = b * kBlock; i < b * kBlock + size(b); ++i) {
        if (backwards_) {
          std::fill(h_ + i * n_, h_ + i * n_ + i, 0.0F);
        } else {
          std::fill(h_ + i * n_ + i + 1, h_ + (i + 1) * n_, 0.0F);
        }
      }
    });
  }

 private:
  struct Rows {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::uint64_t tasks() const { return pieces(end - begin, kRows); }
    Rows of_task(std::size_t task) const { return {begin + task * kRows, std::min(end, begin + (task + 1) * kRows)}; }
  };

  std::uint64_t size(std::uint64_t b) const { return std::min(kBlock, n_ - b * kBlock); }
  // The rows that are not finished when those of block b are.
  Rows open_rows(std::uint64_t b) const { return backwards_ ? Rows{0, b * kBlock} : Rows{b * kBlock + size(b), n_}; }

  // From column b's diagonal block and open rows, takes the products of the finished columns.
  void subtract_finished(std::uint64_t b) {
    const std::uint64_t top = b * kBlock;
    const std::uint64_t bottom = top + size(b);
    const std::uint64_t first = backwards_ ? bottom : 0;
    const std::uint64_t count = backwards_ ? n_ - bottom : top;
    if (count == 0) return;
    const Rows rows = backwards_ ? Rows{0, bottom} : Rows{top, n_};
    for_tasks(threads_, rows.tasks(), [&](std::size_t task) {
      const auto [begin, end] = rows.of_task(task);
      const Sgemm product{.transpose_b = true, .alpha = -1.0F, .beta = 1.0F};
      product(end - begin, size(b), count, h_ + begin * n_ + first, n_, h_ + top * n_ + first, n_,
              h_ + begin * n_ + top, n_);
    });
  }

  bool factor_block(std::uint64_t b, bool inverse_blocks) {
    const std::uint64_t count = size(b);
    float* block = h_ + b * kBlock * (n_ + 1);
    double least[kBlock];
    // place(i, j) of the block, seen as the upper triangle of what is eliminated from the top.
    const auto place = [&](std::uint64_t i, std::uint64_t j) -> float& {
      return backwards_ ? block[(count - 1 - j) * n_ + count - 1 - i] : block[j * n_ + i];
    };
    for (std::uint64_t i = 0; i < count; ++i) {
      least[i] = least_pivot_[b * kBlock + (backwards_ ? count - 1 - i : i)];
      for (std::uint64_t j = i; j < count; ++j) block_[i * kBlock + j] = static_cast<double>(place(i, j));
    }
    if (!linalg::factor_upper(block_.data(), count, kBlock, least)) return false;
    linalg::invert_upper(block_.data(), count, kBlock, block_inverse_.data());
    const std::vector<double>& kept = inverse_blocks ? block_inverse_ : block_;
    for (std::uint64_t i = 0; i < count; ++i) {
      for (std::uint64_t j = i; j < count; ++j) place(i, j) = static_cast<float>(kept[i * kBlock + j]);
    }
    store_inverse(count);
    return true;
  }

  // The inverse of the block's factor as it stands in H: lower triangular forwards, upper triangular backwards.
  void store_inverse(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      for (std::uint64_t j = 0; j < count; ++j) {
        const std::uint64_t place = backwards_ ? (count - 1 - j) * kBlock + count - 1 - i : j * kBlock + i;
        inverse_[place] = static_cast<float>(block_inverse_[i * kBlock + j]);
      }
    }
  }

  // Column b's open rows times the transposed inverse of its diagonal block.
  void multiply_panel(std::uint64_t b) {
    const std::uint64_t cols = size(b);
    const Rows rows = open_rows(b);
    for_tasks(threads_, rows.tasks(), [&](std::size_t task) {
      const auto [begin, end] = rows.of_task(task);
      float* panel = h_ + begin * n_ + b * kBlock;
      thread_local std::vector<float> copy(kRows * kBlock);
      for (std::uint64_t r = 0; r < end - begin; ++r) std::copy_n(panel + r * n_, cols, copy.data() + r * cols);
      Sgemm{.transpose_b = true}(end - begin, cols, cols, copy.data(), cols, inverse_.data(), kBlock, panel, n_);
    });
  }

  float* h_;
  std::uint64_t n_;
  std::uint64_t blocks_;
  bool backwards_;
  int threads_;
  std::vector<double> block_, block_inverse_;
  std::vector<float> inverse_;
  // A pivot is what n products leave of H's diagonal in float32. What is less than that sum's rounding error, a random
  // walk of n steps, is no digit of the pivot.
  std::vector<double> least_pivot_;
};

}  // namespace

bool inverse_upper_factor(std::span<float> h, std::uint64_t n, int threads) {
  linalg::check_matrix("inverse_upper_factor", "h", h.size(), n, n);
  Factorization factorization(h.data(), n, true, threads);
  if (!factorization.run(true)) return false;
  factorization.clear_other_side();
  factorization.invert();
  return true;
}

bool cholesky_lower(std::span<float> h, std::uint64_t n, int threads) {
  linalg::check_matrix("cholesky_lower", "h", h.size(), n, n);
  Factorization factorization(h.data(), n, false, threads);
  if (!factorization.run(false)) return false;
  factorization.clear_other_side();
  return true;
}

}  // namespace quant
