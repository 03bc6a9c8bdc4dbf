// The sparse part beside any codec: which weights, what is stored, and that slices give what the whole gives.
#include <algorithm>
#include <numeric>

#include "quant/error.h"
#include "quant/kmeans.h"
#include "quant/outliers.h"
#include "quant/rtn.h"
#include "quant/whole_weight.h"
#include "rtn/reference.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs sparse_args(QuantArgs args, double outliers, double sensitive) {
  args.outlier_percent = outliers;
  args.sensitive_percent = sensitive;
  return args;
}

QuantizedTensor code(const Quantizer& quantizer, const Weights& weights, const QuantArgs& args, DType scales,
                     std::uint64_t step, std::vector<ErrorSums>& sums) {
  TensorParams params = quantizer.prepare(weights.view(), args, {}, 1);
  QuantizedTensor whole, slice;
  sums.clear();
  for (std::uint64_t first = 0; first < weights.rows; first += step) {
    params.first_row = first;
    const std::uint64_t count = std::min(step, weights.rows - first);
    std::vector<ErrorSums> part(count);
    quantizer.quantize_rows(weights.view().slice_rows(first, count), args, scales, params, {}, slice, {part, {}, {}});
    put_slice(slice, first, weights.rows, whole);
    sums.insert(sums.end(), part.begin(), part.end());
  }
  return whole;
}

}  // namespace

TEST_CASE("the chosen weights are the largest, then the most sensitive; their number is exact") {
  const Weights weights = sample_weights(20, 50, DType::F32);
  std::vector<float> importance(50);
  for (std::size_t c = 0; c < 50; ++c) importance[c] = c == 7 ? 1000.0F : 1.0F;
  const QuantArgs args = sparse_args(make_args(NumberType::integer, 4, true, Strategy::channel), 1.0, 0.5);
  REQUIRE(sparse_count(args, 20, 50) == 15);
  const auto choice = choose_sparse(weights.view(), args, importance);
  REQUIRE(choice->columns.size() == 15);
  std::vector<std::pair<float, std::size_t>> by_size;
  for (std::size_t i = 0; i < 1000; ++i) by_size.emplace_back(-std::fabs(weights.values[i]), i);
  std::sort(by_size.begin(), by_size.end());
  std::vector<std::size_t> expected;
  for (std::size_t i = 0; i < 10; ++i) expected.push_back(by_size[i].second);
  std::vector<std::pair<float, std::size_t>> rest;
  for (std::size_t i = 10; i < 1000; ++i) {
    const std::size_t at = by_size[i].second;
    rest.emplace_back(-importance[at % 50] * weights.values[at] * weights.values[at], at);
  }
  std::sort(rest.begin(), rest.end());
  for (std::size_t i = 0; i < 5; ++i) expected.push_back(rest[i].second);
  std::sort(expected.begin(), expected.end());
  std::vector<std::size_t> found;
  for (std::uint64_t r = 0; r < 20; ++r) {
    for (std::uint64_t i = choice->starts[r]; i < choice->starts[r + 1]; ++i)
      found.push_back(r * 50 + choice->columns[i]);
  }
  CHECK(found == expected);
}

TEST_CASE("equal weights are taken in row-major order") {
  const std::vector<float> same(200, 0.5F);
  const auto choice = choose_sparse(f32_view(same, 10, 20), sparse_args({}, 12.5, 0), {});
  CHECK(choice->columns.size() == 25);
  CHECK(choice->starts[1] == 20);
  CHECK(choice->starts[2] == 25);
  CHECK(choice->starts[10] == 25);
}

TEST_CASE("what is stored apart is exact but for the type of the rest, over every codec") {
  const Weights weights = sample_weights(24, 96, DType::F32, 3);
  const auto rtn = make_rtn();
  const auto kmeans = make_kmeans();
  for (const auto& [dense, args] : {std::pair<const Quantizer*, QuantArgs>{
                                        rtn.get(), make_args(NumberType::integer, 3, false, Strategy::group, 32)},
                                    {rtn.get(), make_args(NumberType::integer, 4, true, Strategy::tensor)},
                                    {kmeans.get(), make_args(NumberType::codebook, 3, true, Strategy::channel)},
                                    {kmeans.get(), make_args(NumberType::codebook, 2, true, Strategy::tensor)}}) {
    const auto quantizer = with_sparse_part(*dense);
    INFO(describe(args));
    std::vector<ErrorSums> plain_sums, sums, sliced_sums;
    const QuantizedTensor plain = code(*quantizer, weights, args, DType::F32, 24, plain_sums);
    CHECK(plain.sparse.empty());
    const QuantArgs with = sparse_args(args, 2, 1);
    const QuantizedTensor whole = code(*quantizer, weights, with, DType::F32, 24, sums);
    const QuantizedTensor sliced = code(*quantizer, weights, with, DType::F32, 6, sliced_sums);
    REQUIRE(whole.sparse.columns.size() == sparse_count(with, 24, 96));
    CHECK((sliced.codes == whole.codes && sliced.scales == whole.scales && sliced.codebook == whole.codebook));
    CHECK((sliced.sparse.columns == whole.sparse.columns && sliced.sparse.values == whole.sparse.values &&
           sliced.sparse.starts == whole.sparse.starts));
    double noise = 0, plain_noise = 0, measured = 0;
    std::vector<float> row(96);
    for (std::uint64_t r = 0; r < 24; ++r) {
      dequantize_row(whole, r, row);
      for (std::uint64_t i = whole.sparse.starts[r]; i < whole.sparse.starts[r + 1]; ++i) {
        const std::uint32_t c = whole.sparse.columns[i];
        CHECK(row[c] == Approx(weights.at(r, c)).epsilon(1e-6));
      }
      for (std::uint64_t c = 0; c < 96; ++c)
        noise += std::pow(static_cast<double>(weights.at(r, c)) - static_cast<double>(row[c]), 2);
      measured += sums[r].noise;
      plain_noise += plain_sums[r].noise;
    }
    CHECK(measured == Approx(noise).epsilon(1e-6));
    CHECK(noise < plain_noise);
  }
}

TEST_CASE("slices on any number of threads give what the whole gives") {
  const Weights weights = sample_weights(700, 300, DType::BF16, 6);
  std::vector<float> importance(300);
  for (std::size_t c = 0; c < 300; ++c) importance[c] = static_cast<float>(1 + c % 11);
  const auto rtn = make_rtn();
  const auto kmeans = make_kmeans();
  for (const auto& [dense, args] : {std::pair<const Quantizer*, QuantArgs>{
                                        rtn.get(), make_args(NumberType::integer, 3, false, Strategy::group, 32)},
                                    {kmeans.get(), make_args(NumberType::codebook, 2, true, Strategy::channel)},
                                    {kmeans.get(), make_args(NumberType::codebook, 3, true, Strategy::tensor)}}) {
    const auto quantizer = with_sparse_part(*dense);
    const QuantArgs with = sparse_args(args, 1, 1);
    INFO(describe(with));
    const TensorParams params = quantizer->prepare(weights.view(), with, importance, 2);
    QuantizedTensor whole;
    quantizer->quantize_rows(weights.view(), with, DType::F16, params, importance, whole, {});
    for (const int threads : {1, 4}) {
      const auto sliced = quantize_slices(*quantizer, weights.view(), with, DType::F16, params, importance, threads);
      CHECK(same_result(sliced, whole));
      CHECK((sliced.codebook == whole.codebook && sliced.sparse.columns == whole.sparse.columns &&
             sliced.sparse.values == whole.sparse.values && sliced.sparse.starts == whole.sparse.starts));
    }
  }
}

TEST_CASE("a sparse part without its choice, and weights that are not numbers, are refused") {
  Weights weights = sample_weights(4, 32, DType::F32);
  const auto rtn = make_rtn();
  const auto quantizer = with_sparse_part(*rtn);
  const QuantArgs args = sparse_args(make_args(NumberType::integer, 4, true, Strategy::channel), 5, 0);
  QuantizedTensor out;
  CHECK_THROWS_AS(quantizer->quantize_rows(weights.view(), args, DType::F32, {}, {}, out, {}), Error);
  weights.values[33] = std::nanf("");
  const TensorParams params = quantizer->prepare(weights.view(), args, {}, 1);
  CHECK_THROWS_AS(quantizer->quantize_rows(weights.view(), args, DType::F32, params, {}, out, {}), Error);
}
