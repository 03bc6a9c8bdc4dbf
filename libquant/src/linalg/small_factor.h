// The Cholesky factor of one small block and its inverse, in float64.
#pragma once

#include <cstdint>
#include <vector>

namespace quant::linalg {

/// a [n, n], row-major with rows `stride` apart: on entry the upper triangle of a symmetric matrix, on return U with
/// a = U^T U. False if a pivot is not finite, or not greater than 0 and than its `least` [n].
bool factor_upper(double* a, std::uint64_t n, std::uint64_t stride, const double* least);

/// inverse [n, n] = u^-1 for an upper triangular u; both have rows `stride` apart. Zeros below the diagonal.
void invert_upper(const double* u, std::uint64_t n, std::uint64_t stride, double* inverse);

}  // namespace quant::linalg
