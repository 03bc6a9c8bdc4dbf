// General products by tiles of the result, and quadratic forms.
#include <algorithm>
#include <vector>

#include "linalg/check.h"
#include "linalg/onednn.h"
#include "linalg/parallel.h"
#include "quant/error.h"
#include "quant/linalg.h"

namespace quant {
namespace {

using linalg::for_tasks;
using linalg::pieces;
using linalg::Sgemm;

// The largest tile that still leaves work for many threads; a function of the shape alone.
std::uint64_t tile_edge(std::uint64_t m, std::uint64_t n) {
  constexpr std::uint64_t kEnoughTiles = 32;
  for (const std::uint64_t edge : {std::uint64_t{512}, std::uint64_t{256}}) {
    if (pieces(m, edge) * pieces(n, edge) >= kEnoughTiles) return edge;
  }
  return 128;
}

// The sum over k of d[r, k] H[k, j] d[r, j] over one block of H, in float64 but for the inner sums of kBlock terms.
constexpr std::uint64_t kFormRows = 64;
constexpr std::uint64_t kFormBlock = 256;

void add_block(const float* d, std::uint64_t rows, const float* h, std::uint64_t n, std::uint64_t k0, std::uint64_t j0,
               std::vector<float>& product, double* sums) {
  const std::uint64_t k_count = std::min(kFormBlock, n - k0);
  const std::uint64_t j_count = std::min(kFormBlock, n - j0);
  Sgemm{}(rows, j_count, k_count, d + k0, n, h + k0 * n + j0, n, product.data(), kFormBlock);
  const double weight = k0 == j0 ? 1.0 : 2.0;
  for (std::uint64_t r = 0; r < rows; ++r) {
    double sum = 0.0;
    for (std::uint64_t j = 0; j < j_count; ++j) {
      sum += static_cast<double>(product[r * kFormBlock + j]) * static_cast<double>(d[r * n + j0 + j]);
    }
    sums[r] += weight * sum;
  }
}

// c = beta c, what a product without terms leaves; beta 0 does not read c.
void scale(MatrixRef c, std::uint64_t m, std::uint64_t n, float beta) {
  for (std::uint64_t i = 0; i < m; ++i) {
    for (float& value : std::span(c.data + i * c.ld, n)) value = beta == 0.0F ? 0.0F : beta * value;
  }
}

}  // namespace

void gemm(std::uint64_t m, std::uint64_t n, std::uint64_t k, float alpha, ConstMatrixRef a, ConstMatrixRef b,
          bool transpose_b, float beta, MatrixRef c, int threads) {
  if (m == 0 || n == 0) return;
  if (a.ld < k || b.ld < (transpose_b ? k : n) || c.ld < n) {
    throw Error(ErrorCode::usage, "gemm: a leading dimension is less than the length of its matrix's rows.");
  }
  if (k == 0) return scale(c, m, n, beta);  // which oneDNN leaves alone
  const std::uint64_t edge = tile_edge(m, n);
  const std::uint64_t across = pieces(n, edge);
  for_tasks(threads, pieces(m, edge) * across, [&](std::size_t task) {
    const std::uint64_t i = task / across * edge;
    const std::uint64_t j = task % across * edge;
    const Sgemm product{.transpose_b = transpose_b, .alpha = alpha, .beta = beta};
    product(std::min(edge, m - i), std::min(edge, n - j), k, a.data + i * a.ld, a.ld,
            b.data + (transpose_b ? j * b.ld : j), b.ld, c.data + i * c.ld + j, c.ld);
  });
}

void quadratic_forms(std::span<const float> d, std::uint64_t rows, std::span<const float> h, std::uint64_t n,
                     std::span<double> out, int threads) {
  linalg::check_matrix("quadratic_forms", "d", d.size(), rows, n);
  linalg::check_matrix("quadratic_forms", "h", h.size(), n, n);
  linalg::check_matrix("quadratic_forms", "out", out.size(), rows, 1);
  for_tasks(threads, pieces(rows, kFormRows), [&](std::size_t task) {
    const std::uint64_t first = task * kFormRows;
    const std::uint64_t count = std::min(kFormRows, rows - first);
    std::fill_n(out.data() + first, count, 0.0);
    std::vector<float> product(kFormRows * kFormBlock);
    for (std::uint64_t k = 0; k < n; k += kFormBlock) {
      for (std::uint64_t j = k; j < n; j += kFormBlock) {
        add_block(d.data() + first * n, count, h.data(), n, k, j, product, out.data() + first);
      }
    }
  });
}

}  // namespace quant
