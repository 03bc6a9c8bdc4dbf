// Products with prepared weights, against float64.
#include <limits>

#include "linalg/matrices.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "support/catch.h"

namespace quant::test {
namespace {

struct Shape {
  std::uint64_t tokens, rows, cols;
};

std::vector<float> multiply(const Product& product, const std::vector<float>& x, std::uint64_t tokens, int threads) {
  std::vector<float> y(tokens * product.rows(), std::numeric_limits<float>::quiet_NaN());
  product.run(x, tokens, y, threads);
  return y;
}

double worst_error(const std::vector<float>& x, const std::vector<float>& w, const std::vector<float>& y, Shape shape) {
  WorstError worst;
  for (std::uint64_t t = 0; t < shape.tokens; ++t) {
    for (std::uint64_t r = 0; r < shape.rows; ++r) {
      Sum sum;
      for (std::uint64_t c = 0; c < shape.cols; ++c) sum.add(x[t * shape.cols + c], w[r * shape.cols + c]);
      worst.add(y[t * shape.rows + r], sum);
    }
  }
  return worst.roundings();
}

TEST_CASE("products agree with float64 sums") {
  const auto shape = GENERATE(Shape{1, 1, 1}, Shape{1, 300, 77}, Shape{2, 17, 5}, Shape{7, 256, 128}, Shape{16, 64, 1},
                              Shape{33, 513, 300}, Shape{530, 40, 1100}, Shape{65, 259, 2049});
  CAPTURE(shape.tokens, shape.rows, shape.cols);
  const auto w = random_matrix(shape.rows, shape.cols, 1);
  const auto x = random_matrix(shape.tokens, shape.cols, 2);
  SECTION("in float32, to a few roundings of the terms' magnitudes") {
    const Product product(w, shape.rows, shape.cols, ProductType::f32, 2);
    CHECK(worst_error(x, w, multiply(product, x, shape.tokens, 2), shape) < 16.0);
  }
  SECTION("in BF16, as of the rounded operands") {
    const Product product(w, shape.rows, shape.cols, ProductType::bf16, 2);
    const auto y = multiply(product, x, shape.tokens, 2);
    CHECK(worst_error(rounded_to_bf16(x), rounded_to_bf16(w), y, shape) < 16.0);
    CHECK(worst_error(x, w, y, shape) * kFloatRounding < kBf16Products + 16.0 * kFloatRounding);
  }
}

TEST_CASE("products have the same bits for any threads and any division of the tokens") {
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  const std::uint64_t cols = GENERATE(96, 1030);
  constexpr std::uint64_t kRows = 600;
  constexpr std::uint64_t kTokens = 525;
  const auto w = random_matrix(kRows, cols, 3);
  const auto x = random_matrix(kTokens, cols, 4);
  const Product product(w, kRows, cols, type, 1);
  const auto expected = multiply(product, x, kTokens, 1);
  for (const int threads : kThreadCounts) {
    const Product again(w, kRows, cols, type, threads);
    CHECK(same_bits(multiply(again, x, kTokens, threads), expected));
  }
  for (const std::uint64_t step : {2, 3, 16, 31, 64, 131, 523}) {
    CAPTURE(step);
    std::vector<float> joined;
    for (std::uint64_t first = 0; first < kTokens;) {
      std::uint64_t count = std::min<std::uint64_t>(step, kTokens - first);
      if (kTokens - first - count == 1) ++count;  // no call with one token
      const std::vector<float> part(x.begin() + static_cast<std::ptrdiff_t>(first * cols),
                                    x.begin() + static_cast<std::ptrdiff_t>((first + count) * cols));
      const auto y = multiply(product, part, count, 3);
      joined.insert(joined.end(), y.begin(), y.end());
      first += count;
    }
    CHECK(same_bits(joined, expected));
  }
}

TEST_CASE("one token has the same bits for any threads") {
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  const auto w = random_matrix(700, 900, 5);
  const auto x = random_matrix(1, 900, 6);
  const Product product(w, 700, 900, type, 2);
  for (const int threads : kThreadCounts)
    CHECK(same_bits(multiply(product, x, 1, threads), multiply(product, x, 1, 1)));
}

TEST_CASE("a NaN or an infinity in a token stays in that token") {
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  const auto bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const auto w = random_matrix(40, 64, 7);
  auto x = random_matrix(5, 64, 8);
  x[2 * 64 + 9] = bad;
  const auto y = multiply(Product(w, 40, 64, type, 1), x, 5, 2);
  for (std::uint64_t i = 0; i < y.size(); ++i) CHECK(std::isfinite(y[i]) == (i / 40 != 2));
}

TEST_CASE("products say their size, move, and refuse wrong shapes") {
  const auto w = random_matrix(512, 512, 9);
  Product product(w, 512, 512, ProductType::f32, 1);
  CHECK(product.bytes() == w.size() * sizeof(float));
  if (fastest_product_type() == ProductType::bf16) {
    CHECK(Product(w, 512, 512, ProductType::bf16, 1).bytes() == w.size() * 2);
  }
  const Product moved = std::move(product);
  CHECK(moved.rows() == 512);
  CHECK(moved.cols() == 512);
  std::vector<float> y(512 * 2);
  CHECK_THROWS_AS(moved.run(std::vector<float>(512 * 2 - 1), 2, y, 1), Error);
  CHECK_THROWS_AS(moved.run(std::vector<float>(512), 1, y, 1), Error);
  CHECK_THROWS_AS(Product(w, 512, 511, ProductType::f32, 1), Error);
  CHECK_THROWS_AS(Product({}, 0, 0, ProductType::f32, 1), Error);
  CHECK_NOTHROW(moved.run({}, 0, {}, 1));
}

}  // namespace
}  // namespace quant::test
