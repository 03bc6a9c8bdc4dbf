// Triangular factors, against Eigen's in float64.
#include <Eigen/Cholesky>
#include <Eigen/Dense>
#include <limits>

#include "linalg/matrices.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "support/catch.h"

namespace quant::test {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix to_eigen(const std::vector<float>& values, std::uint64_t n) {
  const auto size = static_cast<Eigen::Index>(n);
  return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(values.data(), size,
                                                                                                 size)
      .cast<double>();
}

// X^T X / rows of random X, with `damping` of its mean diagonal on the diagonal. Exactly symmetric.
std::vector<float> positive_definite(std::uint64_t n, std::uint64_t rows, double damping, unsigned seed) {
  const auto x = random_matrix(rows, n, seed);
  GramAccumulator sums(n, ProductType::f32);
  sums.add(x, {}, rows, 2);
  auto h = sums.take_gram(2);
  double mean = 0.0;
  for (std::uint64_t i = 0; i < n; ++i) mean += h[i * n + i] / static_cast<double>(n);
  for (std::uint64_t i = 0; i < n; ++i) h[i * n + i] += static_cast<float>(damping * mean);
  return h;
}

bool triangular(const std::vector<float>& m, std::uint64_t n, bool upper) {
  for (std::uint64_t i = 0; i < n; ++i) {
    for (std::uint64_t j = 0; j < n; ++j) {
      if ((upper ? j < i : j > i) && (m[i * n + j] != 0.0F || std::signbit(m[i * n + j]))) return false;
    }
    if (!(m[i * n + i] > 0.0F)) return false;
  }
  return true;
}

double relative_difference(const Matrix& a, const Matrix& b) { return (a - b).norm() / b.norm(); }

constexpr std::uint64_t kSizes[] = {1, 2, 7, 8, 127, 128, 129, 256, 300, 517};

TEST_CASE("the factor of the inverse is Eigen's of the inverted matrix") {
  const std::uint64_t n = GENERATE(from_range(std::begin(kSizes), std::end(kSizes)));
  CAPTURE(n);
  auto h = positive_definite(n, 2 * n + 3, 0.01, 1);
  const Matrix exact = to_eigen(h, n);
  const Matrix inverse = exact.llt().solve(Matrix::Identity(exact.rows(), exact.cols()));
  const Matrix expected = inverse.llt().matrixU();
  const Eigen::VectorXd spectrum = exact.selfadjointView<Eigen::Lower>().eigenvalues();
  const double condition = spectrum.maxCoeff() / spectrum.minCoeff();
  REQUIRE(inverse_upper_factor(h, n, 2));
  CHECK(triangular(h, n, true));
  // Errors grow with the condition of H, seldom as fast as it: rounding H itself moves the factor as much.
  CHECK(relative_difference(to_eigen(h, n), expected) <
        4.0 * kFloatRounding * std::sqrt(condition * static_cast<double>(n)) + 4.0 * kFloatRounding);
}

TEST_CASE("the lower factor is Eigen's") {
  const std::uint64_t n = GENERATE(from_range(std::begin(kSizes), std::end(kSizes)));
  CAPTURE(n);
  auto h = positive_definite(n, 2 * n + 3, 0.01, 2);
  const Matrix exact = to_eigen(h, n);
  const Matrix expected = exact.llt().matrixL();
  REQUIRE(cholesky_lower(h, n, 2));
  CHECK(triangular(h, n, false));
  const Matrix got = to_eigen(h, n);
  CHECK(relative_difference(got * got.transpose(), exact) < 4.0 * kFloatRounding);
  CHECK(relative_difference(got, expected) < 16.0 * kFloatRounding);
}

TEST_CASE("scaling channels scales the factors, also by outliers") {
  constexpr std::uint64_t kN = 200;
  const auto h = positive_definite(kN, 500, 0.01, 3);
  auto scaled = h;
  const auto factor = [](std::uint64_t i) { return i % 50 == 7 ? 1024.0F : 1.0F; };
  for (std::uint64_t i = 0; i < kN; ++i) {
    for (std::uint64_t j = 0; j < kN; ++j) scaled[i * kN + j] *= factor(i) * factor(j);
  }
  auto plain = h;
  REQUIRE(inverse_upper_factor(plain, kN, 2));
  REQUIRE(inverse_upper_factor(scaled, kN, 2));
  for (std::uint64_t i = 0; i < kN; ++i) {
    for (std::uint64_t j = i; j < kN; ++j) {
      CHECK(scaled[i * kN + j] * factor(j) == Approx(plain[i * kN + j]).epsilon(1e-4).margin(1e-6));
    }
  }
}

TEST_CASE("factors have the same bits for any threads") {
  constexpr std::uint64_t kN = 700;
  const auto h = positive_definite(kN, 900, 0.01, 4);
  auto upper = h;
  auto lower = h;
  REQUIRE(inverse_upper_factor(upper, kN, 1));
  REQUIRE(cholesky_lower(lower, kN, 1));
  for (const int threads : kThreadCounts) {
    auto again = h;
    REQUIRE(inverse_upper_factor(again, kN, threads));
    CHECK(same_bits(again, upper));
    again = h;
    REQUIRE(cholesky_lower(again, kN, threads));
    CHECK(same_bits(again, lower));
  }
}

bool both_refuse(const std::vector<float>& h, std::uint64_t n) {
  auto first = h;
  auto second = h;
  const bool inverse = inverse_upper_factor(first, n, 2);
  const bool lower = cholesky_lower(second, n, 2);
  CHECK(inverse == lower);
  return !inverse && !lower;
}

TEST_CASE("matrices that are not positive definite are refused") {
  const std::uint64_t n = GENERATE(1, 5, 128, 200, 400);
  CAPTURE(n);
  const auto good = positive_definite(n, 2 * n + 5, 0.01, 5);
  CHECK_FALSE(both_refuse(good, n));
  for (const std::uint64_t at : {std::uint64_t{0}, n / 2, n - 1}) {
    CAPTURE(at);
    auto zero = good;
    for (std::uint64_t i = 0; i < n; ++i) zero[i * n + at] = zero[at * n + i] = 0.0F;
    CHECK(both_refuse(zero, n));
    auto negative = good;
    negative[at * n + at] *= -1.0F;
    CHECK(both_refuse(negative, n));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      auto broken = good;
      broken[at * n + at] = bad;
      CHECK(both_refuse(broken, n));
      if (n == 1) continue;
      broken = good;
      broken[at * n + (at + 1) % n] = broken[(at + 1) % n * n + at] = bad;
      CHECK(both_refuse(broken, n));
    }
  }
}

TEST_CASE("a Gram matrix of fewer rows than columns is singular") {
  const std::uint64_t n = GENERATE(40, 200, 500);
  const std::uint64_t rows = GENERATE_COPY(std::uint64_t{1}, n / 2, n - 2);
  CAPTURE(n, rows);
  CHECK(both_refuse(positive_definite(n, rows, 0.0, 6), n));
  CHECK_FALSE(both_refuse(positive_definite(n, rows, 0.01, 6), n));
}

TEST_CASE("two equal channels are singular") {
  auto x = random_matrix(600, 150, 7);
  for (std::uint64_t r = 0; r < 600; ++r) x[r * 150 + 140] = x[r * 150 + 3];
  GramAccumulator sums(150, ProductType::f32);
  sums.add(x, {}, 600, 1);
  CHECK(both_refuse(sums.take_gram(1), 150));
}

TEST_CASE("factors of nothing and wrong shapes") {
  std::vector<float> none;
  CHECK(inverse_upper_factor(none, 0, 1));
  CHECK(cholesky_lower(none, 0, 1));
  std::vector<float> h(8);
  CHECK_THROWS_AS(inverse_upper_factor(h, 3, 1), Error);
  CHECK_THROWS_AS(cholesky_lower(h, 3, 1), Error);
}

}  // namespace
}  // namespace quant::test
