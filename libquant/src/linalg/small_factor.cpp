#include "linalg/small_factor.h"

#include <algorithm>
#include <cmath>

namespace quant::linalg {
namespace {

// Rows that are eliminated together: each element of what remains is then read and written once for all of them.
constexpr std::uint64_t kStrip = 8;

// to[begin .. end) -= sum over the kStrip rows of factors[p * stride_f] * rows[p * stride + j].
void subtract_strip(double* to, const double* rows, std::uint64_t stride, const double* factors,
                    std::uint64_t factor_stride, std::uint64_t begin, std::uint64_t end) {
  double f[kStrip];
  for (std::uint64_t p = 0; p < kStrip; ++p) f[p] = factors[p * factor_stride];
  for (std::uint64_t j = begin; j < end; ++j) {
    double sum = f[0] * rows[j];
    for (std::uint64_t p = 1; p < kStrip; ++p) sum += f[p] * rows[p * stride + j];
    to[j] -= sum;
  }
}

void subtract_row(double* to, const double* row, double factor, std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t j = begin; j < end; ++j) to[j] -= factor * row[j];
}

// Eliminates rows first .. first + count - 1 among themselves.
bool factor_strip(double* a, std::uint64_t n, std::uint64_t stride, std::uint64_t first, std::uint64_t count,
                  const double* least) {
  for (std::uint64_t k = first; k < first + count; ++k) {
    double* row = a + k * stride;
    const double pivot = row[k];
    if (!(pivot > std::max(0.0, least[k])) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    row[k] = root;
    for (std::uint64_t j = k + 1; j < n; ++j) row[j] /= root;
    for (std::uint64_t i = k + 1; i < first + count; ++i) subtract_row(a + i * stride, row, row[i], i, n);
  }
  return true;
}

}  // namespace

bool factor_upper(double* a, std::uint64_t n, std::uint64_t stride, const double* least) {
  for (std::uint64_t first = 0; first < n; first += kStrip) {
    const std::uint64_t count = std::min(kStrip, n - first);
    if (!factor_strip(a, n, stride, first, count, least)) return false;
    const double* strip = a + first * stride;
    for (std::uint64_t i = first + count; i < n; ++i) {
      subtract_strip(a + i * stride, strip, stride, strip + i, stride, i, n);
    }
  }
  return true;
}

void invert_upper(const double* u, std::uint64_t n, std::uint64_t stride, double* inverse) {
  for (std::uint64_t i = n; i-- > 0;) {
    double* row = inverse + i * stride;
    const double* factors = u + i * stride;
    std::fill(row, row + n, 0.0);
    row[i] = 1.0;
    std::uint64_t k = i + 1;
    for (; k + kStrip <= n; k += kStrip) {
      subtract_strip(row, inverse + k * stride, stride, factors + k, 1, k, n);
    }
    for (; k < n; ++k) subtract_row(row, inverse + k * stride, factors[k], k, n);
    for (std::uint64_t j = i; j < n; ++j) row[j] /= factors[i];
  }
}

}  // namespace quant::linalg
