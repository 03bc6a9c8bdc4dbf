// Sums of outer products, against float64.
#include <malloc.h>

#include <algorithm>

#include "linalg/matrices.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "support/catch.h"

namespace quant::test {
namespace {

using Matrix = std::vector<float>;

std::span<const float> slice(const Matrix& x, std::uint64_t cols, std::uint64_t first, std::uint64_t count) {
  return std::span(x).subspan(first * cols, count * cols);
}

GramAccumulator accumulate(const Matrix& x, const Matrix& a, std::uint64_t cols, ProductType type, std::uint64_t step,
                           int threads) {
  GramAccumulator sums(cols, type, !a.empty());
  const std::uint64_t rows = x.size() / cols;
  for (std::uint64_t first = 0; first < rows; first += step) {
    const std::uint64_t count = std::min(step, rows - first);
    sums.add(slice(x, cols, first, count), a.empty() ? std::span<const float>{} : slice(a, cols, first, count), count,
             threads);
  }
  CHECK(sums.rows() == rows);
  return sums;
}

// left^T right / rows.
double worst_error(const Matrix& left, const Matrix& right, std::uint64_t cols, const Matrix& got) {
  const std::uint64_t rows = left.size() / cols;
  WorstError worst;
  for (std::uint64_t i = 0; i < cols; ++i) {
    for (std::uint64_t j = 0; j < cols; ++j) {
      Sum sum;
      for (std::uint64_t r = 0; r < rows; ++r) sum.add(left[r * cols + i], right[r * cols + j]);
      sum.value /= static_cast<double>(rows);
      sum.magnitude /= static_cast<double>(rows);
      worst.add(got[i * cols + j], sum);
    }
  }
  return worst.roundings();
}

Matrix difference(const Matrix& a, const Matrix& x) {
  Matrix result(a.size());
  std::transform(a.begin(), a.end(), x.begin(), result.begin(), [](float p, float q) { return p - q; });
  return result;
}

struct Shape {
  std::uint64_t rows, cols;
};

TEST_CASE("what an accumulator takes beside its sums is told beforehand") {
  const auto in_use = [] {
    const struct mallinfo2 info = mallinfo2();
    return static_cast<double>(info.uordblks + info.hblkhd);
  };
  constexpr std::uint64_t kCols = 700, kOutputs = 500;
  for (const ProductType type : {ProductType::f32, ProductType::bf16}) {
    for (const bool cross : {false, true}) {
      for (const std::uint64_t outputs : {std::uint64_t{0}, kOutputs}) {
        CAPTURE(static_cast<int>(type), cross, outputs);
        const auto x = random_matrix(600, kCols, 1);
        const auto r = random_matrix(600, kOutputs, 2);
        const std::span<const float> none;
        const std::span<const float> a = cross ? std::span<const float>(x) : none;
        const std::span<const float> added = outputs > 0 ? std::span<const float>(r) : none;
        const auto use = [&] {
          GramAccumulator sums(kCols, type, cross, outputs);
          sums.add(x, a, added, added, 600, 1);
          return in_use();
        };
        use();  // what libraries keep of the shapes that they have seen
        const double before = in_use();
        const double taken = use() - before;
        if (in_use() == 0) return;  // a sanitizer's allocator does not tell
        const double matrices = 4.0 * kCols * static_cast<double>((cross ? 2 : 1) * kCols + outputs);
        const auto told = static_cast<double>(GramAccumulator::waiting_bytes(kCols, type, cross, outputs));
        CHECK(taken - matrices <= told * 1.02 + 4096);
        CHECK(taken - matrices >= told * 0.9);
      }
    }
  }
}

TEST_CASE("Gram matrices agree with float64 sums and are symmetric") {
  const auto shape = GENERATE(Shape{1, 1}, Shape{3, 70}, Shape{512, 96}, Shape{1300, 33}, Shape{700, 300});
  CAPTURE(shape.rows, shape.cols);
  const auto x = random_matrix(shape.rows, shape.cols, 1);
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  auto sums = accumulate(x, {}, shape.cols, type, 200, 2);
  const Matrix gram = sums.take_gram(2);
  const Matrix seen = type == ProductType::bf16 ? rounded_to_bf16(x) : x;
  CHECK(worst_error(seen, seen, shape.cols, gram) < 16.0);
  CHECK(worst_error(x, x, shape.cols, gram) * kFloatRounding < kBf16Products + 16.0 * kFloatRounding);
  bool symmetric = true;
  for (std::uint64_t i = 0; i < shape.cols; ++i) {
    for (std::uint64_t j = 0; j < i; ++j) symmetric &= gram[i * shape.cols + j] == gram[j * shape.cols + i];
  }
  CHECK(symmetric);
}

TEST_CASE("cross matrices agree with float64 sums") {
  const auto shape = GENERATE(Shape{2, 3}, Shape{530, 65}, Shape{100, 300});
  const auto x = random_matrix(shape.rows, shape.cols, 2);
  auto a = random_matrix(shape.rows, shape.cols, 3);
  for (std::uint64_t i = 0; i < a.size(); ++i) a[i] = x[i] + a[i] / 64.0F;  // A is near X, as it is in use
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  auto sums = accumulate(x, a, shape.cols, type, 77, 2);
  const Matrix cross = sums.take_cross(2);
  const Matrix gram = sums.take_gram(2);
  const bool rounds = type == ProductType::bf16;
  const Matrix left = rounds ? rounded_to_bf16(difference(a, x)) : difference(a, x);
  const Matrix right = rounds ? rounded_to_bf16(x) : x;
  CHECK(worst_error(left, right, shape.cols, cross) < 16.0);
  CHECK(worst_error(right, right, shape.cols, gram) < 16.0);
}

TEST_CASE("products of a difference of other matrices agree with float64 sums") {
  const auto shape = GENERATE(Shape{2, 3}, Shape{530, 65}, Shape{100, 300});
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  const std::uint64_t outputs = shape.cols + 9;
  const auto x = random_matrix(shape.rows, shape.cols, 7);
  const auto r = random_matrix(shape.rows, outputs, 8);
  const auto s = random_matrix(shape.rows, outputs, 9);
  const auto sum_of = [&](std::uint64_t step, int threads) {
    GramAccumulator sums(shape.cols, type, false, outputs);
    for (std::uint64_t first = 0; first < shape.rows; first += step) {
      const std::uint64_t count = std::min(step, shape.rows - first);
      sums.add(slice(x, shape.cols, first, count), {}, slice(r, outputs, first, count), slice(s, outputs, first, count),
               count, threads);
    }
    return sums.take_outputs(threads);
  };
  const Matrix product = sum_of(77, 2);
  REQUIRE(product.size() == outputs * shape.cols);
  const bool rounds = type == ProductType::bf16;
  const Matrix left = rounds ? rounded_to_bf16(difference(r, s)) : difference(r, s);
  const Matrix right = rounds ? rounded_to_bf16(x) : x;
  WorstError worst;
  for (std::uint64_t o = 0; o < outputs; ++o) {
    for (std::uint64_t c = 0; c < shape.cols; ++c) {
      Sum sum;
      for (std::uint64_t t = 0; t < shape.rows; ++t) sum.add(left[t * outputs + o], right[t * shape.cols + c]);
      sum.value /= static_cast<double>(shape.rows);
      sum.magnitude /= static_cast<double>(shape.rows);
      worst.add(product[o * shape.cols + c], sum);
    }
  }
  CHECK(worst.roundings() < 16.0);
  for (const int threads : kThreadCounts) CHECK(same_bits(sum_of(shape.rows, threads), product));
}

TEST_CASE("sums have the same bits for any threads and any division into calls") {
  constexpr std::uint64_t kRows = 1100;
  constexpr std::uint64_t kCols = 290;
  const auto x = random_matrix(kRows, kCols, 4);
  const auto a = random_matrix(kRows, kCols, 5);
  const auto type = GENERATE(ProductType::f32, ProductType::bf16);
  auto sums = accumulate(x, a, kCols, type, kRows, 1);
  const Matrix gram = sums.take_gram(1);
  const Matrix cross = sums.take_cross(1);
  for (const int threads : kThreadCounts) {
    for (const std::uint64_t step : {1, 100, 512, 700, 1100}) {
      CAPTURE(threads, step);
      auto again = accumulate(x, a, kCols, type, step, threads);
      CHECK(same_bits(again.take_gram(threads), gram));
      CHECK(same_bits(again.take_cross(threads), cross));
    }
  }
}

TEST_CASE("many rows do not add up rounding errors") {
  // Sums that grow with the rows: all terms have one sign.
  constexpr std::uint64_t kRows = 20000;
  constexpr std::uint64_t kCols = 12;
  auto x = random_matrix(kRows, kCols, 6);
  for (float& value : x) value = std::abs(value);
  auto sums = accumulate(x, {}, kCols, ProductType::f32, 999, 2);
  CHECK(worst_error(x, x, kCols, sums.take_gram(1)) < 32.0);
}

TEST_CASE("accumulators without rows give zeros, and refuse wrong use") {
  GramAccumulator empty(3, ProductType::f32, true);
  CHECK(empty.take_gram(1) == Matrix(9, 0.0F));
  CHECK(empty.take_cross(1) == Matrix(9, 0.0F));
  CHECK_THROWS_AS(empty.take_gram(1), Error);
  CHECK_THROWS_AS(empty.take_cross(1), Error);
  CHECK_THROWS_AS(empty.add(Matrix(3), Matrix(3), 1, 1), Error);
  GramAccumulator plain(3, ProductType::f32);
  CHECK_THROWS_AS(plain.take_cross(1), Error);
  CHECK_THROWS_AS(plain.take_outputs(1), Error);
  CHECK_THROWS_AS(plain.add(Matrix(3), {}, Matrix(2), Matrix(2), 1, 1), Error);
  CHECK_THROWS_AS(plain.add(Matrix(3), Matrix(3), 1, 1), Error);
  CHECK_THROWS_AS(plain.add(Matrix(4), {}, 1, 1), Error);
  CHECK_THROWS_AS(GramAccumulator(0, ProductType::f32), Error);
  CHECK(plain.rows() == 0);
  CHECK(plain.cols() == 3);
}

}  // namespace
}  // namespace quant::test
