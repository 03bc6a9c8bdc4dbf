// General products and quadratic forms, against float64.
#include <limits>

#include "linalg/matrices.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "support/catch.h"

namespace quant::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  std::uint64_t m, n, k;
};

struct Case {
  Shape shape;
  bool transpose_b = false;
  float alpha = 1.0F;
  float beta = 0.0F;
  // Rows are longer than the matrices, so that what lies between must stay.
  std::uint64_t lda() const { return shape.k + 3; }
  std::uint64_t ldb() const { return (transpose_b ? shape.k : shape.n) + 5; }
  std::uint64_t ldc() const { return shape.n + 2; }
};

std::vector<float> run(const Case& it, const std::vector<float>& a, const std::vector<float>& b, std::vector<float> c,
                       int threads) {
  gemm(it.shape.m, it.shape.n, it.shape.k, it.alpha, {a.data(), it.lda()}, {b.data(), it.ldb()}, it.transpose_b,
       it.beta, {c.data(), it.ldc()}, threads);
  return c;
}

TEST_CASE("gemm agrees with float64 sums for any threads") {
  Case it;
  it.shape = GENERATE(Shape{1, 1, 1}, Shape{3, 200, 70}, Shape{260, 5, 128}, Shape{129, 131, 1}, Shape{515, 190, 33});
  it.transpose_b = GENERATE(false, true);
  const auto factors = GENERATE(std::pair{1.0F, 0.0F}, std::pair{-1.0F, 1.0F}, std::pair{0.5F, -2.0F});
  std::tie(it.alpha, it.beta) = factors;
  const auto& [m, n, k] = it.shape;
  CAPTURE(m, n, k, it.transpose_b, it.alpha, it.beta);
  const auto a = random_matrix(m, it.lda(), 1);
  const auto b = random_matrix(it.transpose_b ? n : k, it.ldb(), 2);
  const auto before = random_matrix(m, it.ldc(), 3);
  const auto c = run(it, a, b, before, 1);
  WorstError worst;
  for (std::uint64_t i = 0; i < m; ++i) {
    for (std::uint64_t j = 0; j < n; ++j) {
      Sum sum;
      for (std::uint64_t p = 0; p < k; ++p) {
        sum.add(it.alpha * a[i * it.lda() + p], it.transpose_b ? b[j * it.ldb() + p] : b[p * it.ldb() + j]);
      }
      sum.add(it.beta, before[i * it.ldc() + j]);
      worst.add(c[i * it.ldc() + j], sum);
    }
    for (std::uint64_t j = n; j < it.ldc(); ++j) CHECK(c[i * it.ldc() + j] == before[i * it.ldc() + j]);
  }
  CHECK(worst.roundings() < 16.0);
  for (const int threads : kThreadCounts) CHECK(same_bits(run(it, a, b, before, threads), c));
}

TEST_CASE("gemm with beta 0 does not read c; with k 0 it scales c") {
  Case it;
  it.shape = {4, 3, 2};
  const auto a = random_matrix(4, it.lda(), 1);
  const auto b = random_matrix(2, it.ldb(), 2);
  const auto c = run(it, a, b, std::vector<float>(4 * it.ldc(), kNaN), 2);
  for (std::uint64_t i = 0; i < 4; ++i) {
    for (std::uint64_t j = 0; j < 3; ++j) CHECK(std::isfinite(c[i * it.ldc() + j]));
  }
  it.shape.k = 0;
  const auto zeros = run(it, a, b, std::vector<float>(4 * it.ldc(), kNaN), 2);
  CHECK(zeros[0] == 0.0F);
  it.beta = 3.0F;
  const auto scaled = run(it, a, b, std::vector<float>(4 * it.ldc(), 2.0F), 2);
  CHECK(scaled[0] == 6.0F);
  CHECK(scaled[3] == 2.0F);
}

TEST_CASE("gemm refuses short rows and takes empty matrices") {
  float value = 1.0F;
  CHECK_THROWS_AS(gemm(1, 1, 2, 1.0F, {&value, 1}, {&value, 1}, false, 0.0F, {&value, 1}, 1), Error);
  CHECK_THROWS_AS(gemm(1, 2, 1, 1.0F, {&value, 1}, {&value, 1}, false, 0.0F, {&value, 2}, 1), Error);
  CHECK_THROWS_AS(gemm(1, 2, 1, 1.0F, {&value, 1}, {&value, 1}, true, 0.0F, {&value, 1}, 1), Error);
  CHECK_NOTHROW(gemm(0, 4, 2, 1.0F, {nullptr, 2}, {&value, 4}, false, 0.0F, {nullptr, 4}, 1));
}

TEST_CASE("quadratic forms agree with float64 sums for any threads") {
  const std::uint64_t rows = GENERATE(1, 70, 130);
  const std::uint64_t n = GENERATE(1, 64, 300, 515);
  const auto x = random_matrix(n + 10, n, 7);
  GramAccumulator sums(n, ProductType::f32);
  sums.add(x, {}, n + 10, 2);
  const auto h = sums.take_gram(2);
  const auto d = random_matrix(rows, n, 8);
  std::vector<double> got(rows, -1.0);
  quadratic_forms(d, rows, h, n, got, 1);
  for (std::uint64_t r = 0; r < rows; ++r) {
    Sum sum;
    for (std::uint64_t i = 0; i < n; ++i) {
      for (std::uint64_t j = 0; j < n; ++j) sum.add(static_cast<double>(d[r * n + i]) * h[i * n + j], d[r * n + j]);
    }
    CHECK(std::abs(got[r] - sum.value) < 2.0 * kFloatRounding * sum.magnitude);
  }
  for (const int threads : kThreadCounts) {
    std::vector<double> again(rows);
    quadratic_forms(d, rows, h, n, again, threads);
    CHECK(same_bits(again, got));
  }
}

TEST_CASE("quadratic forms refuse wrong shapes") {
  std::vector<double> out(2);
  CHECK_THROWS_AS(quadratic_forms(std::vector<float>(6), 2, std::vector<float>(8), 3, out, 1), Error);
  CHECK_THROWS_AS(quadratic_forms(std::vector<float>(5), 2, std::vector<float>(9), 3, out, 1), Error);
  CHECK_THROWS_AS(quadratic_forms(std::vector<float>(9), 3, std::vector<float>(9), 3, out, 1), Error);
}

}  // namespace
}  // namespace quant::test
