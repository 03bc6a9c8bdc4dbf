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

  /// Turns R with inverse diagonal blocks into R^-1.
  void invert() {
    std::vector<float> panel(n_ * kBlock);
    for (std::uint64_t b = 1; b < blocks_; ++b) {
      const std::uint64_t cols = size(b);
      for_tasks(threads_, b, [&](std::size_t i) {
        Sgemm{.alpha = -1.0F}(kBlock, cols, cols, at(i, b), n_, at(b, b), n_, panel.data() + i * kBlock * cols, cols);
      });
      for_tasks(threads_, b, [&](std::size_t i) {
        Sgemm{}(kBlock, cols, (b - i) * kBlock, at(i, i), n_, panel.data() + i * kBlock * cols, cols, at(i, b), n_);
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
  std::uint64_t size(std::uint64_t b) const { return std::min(kBlock, n_ - b * kBlock); }
  float* at(std::uint64_t i, std::uint64_t j) { return h_ + i * kBlock * n_ + j * kBlock; }
  // The blocks whose rows are not finished when b is: [begin, end).
  std::uint64_t begin_open(std::uint64_t b) const { return backwards_ ? 0 : b + 1; }
  std::uint64_t open(std::uint64_t b) const { return backwards_ ? b : blocks_ - 1 - b; }

  // From the blocks (i, b), open and diagonal, takes the products of the finished columns.
  void subtract_finished(std::uint64_t b) {
    const std::uint64_t first = backwards_ ? (b + 1) * kBlock : 0;
    if (b + 1 == blocks_ && backwards_) return;
    const std::uint64_t count = backwards_ ? n_ - first : b * kBlock;
    if (count == 0) return;
    const std::uint64_t top = backwards_ ? 0 : b;
    for_tasks(threads_, open(b) + 1, [&](std::size_t task) {
      const std::uint64_t i = top + task;
      const Sgemm product{.transpose_b = true, .alpha = -1.0F, .beta = 1.0F};
      product(size(i), size(b), count, h_ + i * kBlock * n_ + first, n_, h_ + b * kBlock * n_ + first, n_, at(i, b),
              n_);
    });
  }

  bool factor_block(std::uint64_t b, bool inverse_blocks) {
    const std::uint64_t count = size(b);
    float* block = at(b, b);
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

  // The open blocks of column b times the transposed inverse of its diagonal block.
  void multiply_panel(std::uint64_t b) {
    const std::uint64_t cols = size(b);
    for_tasks(threads_, open(b), [&](std::size_t task) {
      const std::uint64_t i = begin_open(b) + task;
      thread_local std::vector<float> copy(kBlock * kBlock);
      for (std::uint64_t r = 0; r < size(i); ++r) {
        std::copy_n(at(i, b) + r * n_, cols, copy.data() + r * cols);
      }
      Sgemm{.transpose_b = true}(size(i), cols, cols, copy.data(), cols, inverse_.data(), kBlock, at(i, b), n_);
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
