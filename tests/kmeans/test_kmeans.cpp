// One-dimensional k-means against a plain quadratic dynamic program in float64, and its codes against their definition.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "quant/error.h"
#include "quant/kmeans.h"
#include "rtn/reference.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

struct Item {
  double value, weight;
};

std::vector<Item> sorted_items(const std::vector<float>& values, const std::vector<float>& weights) {
  std::vector<Item> items;
  bool any = false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double weight = weights.empty() ? 1.0 : static_cast<double>(weights[i]);
    any = any || weight > 0;
    items.push_back({static_cast<double>(values[i]), weight});
  }
  if (!any) {
    for (Item& item : items) item.weight = 1;
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.value < b.value; });
  return items;
}

/// The least possible error by the recursion as it stands in the paper: every begin of every last cluster is tried.
double least_error(const std::vector<float>& values, const std::vector<float>& weights, std::size_t clusters) {
  const std::vector<Item> items = sorted_items(values, weights);
  const std::size_t n = items.size();
  const auto cost = [&](std::size_t first, std::size_t end) {
    double w = 0, m = 0, e = 0;
    for (std::size_t i = first; i < end; ++i) w += items[i].weight, m += items[i].weight * items[i].value;
    if (w == 0) return 0.0;
    for (std::size_t i = first; i < end; ++i) e += items[i].weight * std::pow(items[i].value - m / w, 2);
    return e;
  };
  std::vector<double> best(n + 1, std::numeric_limits<double>::infinity());
  best[0] = 0;
  for (std::size_t c = 0; c < clusters; ++c) {
    std::vector<double> next = best;
    for (std::size_t end = 1; end <= n; ++end) {
      for (std::size_t first = 0; first < end; ++first) next[end] = std::min(next[end], best[first] + cost(first, end));
    }
    best = next;
  }
  return best[n];
}

double error_of(const std::vector<float>& values, const std::vector<float>& weights, const std::vector<double>& means) {
  double error = 0;
  for (const Item& item : sorted_items(values, weights)) {
    double nearest = std::numeric_limits<double>::infinity();
    for (const double mean : means) nearest = std::min(nearest, std::pow(item.value - mean, 2));
    error += item.weight * nearest;
  }
  return error;
}

QuantArgs learned(int bits, Strategy strategy, std::int64_t group = 0) {
  return make_args(NumberType::codebook, bits, true, strategy, group);
}

}  // namespace

TEST_CASE("the exact partition has the least error of all partitions") {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 60; ++round) {
    const std::size_t count = 1 + random() % 40;
    std::vector<float> values(count), weights;
    for (float& v : values) v = round % 3 == 0 ? std::round(normal(random) * 4) : normal(random) + 3;
    if (round % 2 == 0) {
      weights.resize(count);
      for (float& w : weights) w = round % 4 == 0 && random() % 3 == 0 ? 0.0F : std::exp(normal(random));
    }
    for (std::uint32_t clusters = 1; clusters <= 9; ++clusters) {
      const auto means = kmeans_1d(values, weights, clusters);
      const double least = least_error(values, weights, clusters);
      INFO("round " << round << ", " << count << " values, " << clusters << " clusters");
      CHECK(means.size() <= clusters);
      CHECK(std::is_sorted(means.begin(), means.end()));
      CHECK(error_of(values, weights, means) == Approx(least).epsilon(1e-9).margin(1e-10));
      const auto local = kmeans_1d(values, weights, clusters, KMeansMethod::lloyd);
      CHECK(error_of(values, weights, local) >= least - 1e-10);
    }
  }
}

TEST_CASE("long rows: many chunks, Lloyd close to the optimum, any order of the input") {
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  std::vector<float> values(3000), weights(3000);
  for (float& v : values) v = normal(random);
  for (float& w : weights) w = std::exp(normal(random));
  const auto exact = kmeans_1d(values, weights, 16);
  const auto local = kmeans_1d(values, weights, 16, KMeansMethod::lloyd);
  const double least = error_of(values, weights, exact);
  CHECK(error_of(values, weights, local) >= least);
  CHECK(error_of(values, weights, local) < 1.1 * least);
  // Any single boundary moved from its place makes the error no smaller.
  for (std::size_t i = 0; i < exact.size(); ++i) {
    for (const double by : {-1e-3, 1e-3}) {
      auto moved = exact;
      moved[i] += by;
      CHECK(error_of(values, weights, moved) >= least);
    }
  }
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::vector<float> other_values, other_weights;
  for (const std::size_t i : order) other_values.push_back(values[i]), other_weights.push_back(weights[i]);
  CHECK(kmeans_1d(other_values, other_weights, 16) == exact);
}

TEST_CASE("weights of any ratio give finite, ascending means of least error") {
  // Beside the sum of the others, the last weights are less than its rounding.
  const auto three = kmeans_1d(std::vector<float>{-1, 1, 2}, std::vector<float>{1e10F, 1e10F, 1e-9F}, 2);
  REQUIRE(three.size() == 2);
  CHECK(three[0] == -1);
  CHECK(three[1] == Approx(1).epsilon(1e-9));
  const auto four = kmeans_1d(std::vector<float>{-1, 1, 2, 3}, std::vector<float>{1e4F, 1e4F, 1e-14F, 1e-14F}, 2);
  REQUIRE(four.size() == 2);
  CHECK(four[0] == -1);
  CHECK(four[1] == Approx(1).epsilon(1e-9));
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> exponent(-9, 9);
  for (int round = 0; round < 60; ++round) {
    std::vector<float> values(40), weights(40);
    for (float& v : values) v = normal(random) + 5;
    for (float& w : weights) w = std::pow(10.0F, exponent(random));
    double total = 0;
    for (const float w : weights) total += static_cast<double>(w);
    for (const std::uint32_t clusters : {1U, 2U, 4U, 8U, 16U, 39U}) {
      const double least = least_error(values, weights, clusters);
      for (const KMeansMethod method : {KMeansMethod::exact, KMeansMethod::lloyd}) {
        const auto means = kmeans_1d(values, weights, clusters, method);
        INFO("round " << round << ", " << clusters << " clusters");
        REQUIRE(means.size() == clusters);
        CHECK(std::all_of(means.begin(), means.end(), [](double mean) { return mean > 0 && mean < 10; }));
        CHECK(std::is_sorted(means.begin(), means.end()));
        if (method == KMeansMethod::lloyd) continue;
        // Shares below 1e-12 count as that much, for 40 values at distances of less than 10.
        CHECK(error_of(values, weights, means) <= least * (1 + 1e-9) + 40 * 100e-12 * total);
      }
    }
  }
  // The entries of a stored codebook, and so the codes.
  const std::vector<float> row = {-1, 1, 2, 3, -0.5F, 0.25F};
  const std::vector<float> importance = {1e10F, 1e10F, 1e-9F, 1e-9F, 1e-8F, 1e-7F};
  const QuantizedTensor q = kmeans_quantize(f32_view(row, 1, 6), learned(1, Strategy::channel), importance);
  CHECK(q.codebook[0] == -1);
  CHECK(q.codebook[1] == Approx(1).epsilon(1e-6));
}

TEST_CASE("codes name the nearest entry, the lower one of two; entries are values of the stored type") {
  for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
    for (const int bits : {1, 3, 4, 8}) {
      const Weights weights = sample_weights(7, 120, DType::F32);
      QuantArgs args = learned(bits, Strategy::group, 48);
      args.scale_dtype = type;
      const QuantizedTensor q = kmeans_quantize(weights.view(), args);
      const std::size_t entries = std::size_t{1} << bits;
      REQUIRE(q.codebook.size() == 7 * 3 * entries);
      std::size_t wrong = 0;
      for (std::uint64_t r = 0; r < 7; ++r) {
        for (std::uint64_t c = 0; c < 120; ++c) {
          const float* table = q.codebook.data() + (r * 3 + c / 48) * entries;
          const auto code = static_cast<std::uint8_t>(q.codes[r * 120 + c]);
          const auto far = [&](std::size_t e) {
            return std::fabs(static_cast<double>(weights.at(r, c)) - static_cast<double>(table[e]));
          };
          for (std::size_t e = 0; e < entries; ++e) {
            wrong += round_to_dtype(type, table[e]) != table[e] ? 1 : 0;
            wrong += far(e) < far(code) || (far(e) == far(code) && table[e] < table[code]) ? 1 : 0;
          }
        }
      }
      INFO(bits << " bits");
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("a codebook of all rows of a tensor or block, and weights of single elements") {
  const Weights weights = sample_weights(6, 40, DType::F16);
  std::vector<float> each(weights.values.size());
  std::mt19937 random(2);
  for (float& h : each) h = static_cast<float>(random() % 5);
  const QuantizedTensor q = kmeans_quantize(weights.view(), learned(3, Strategy::tensor), each);
  const auto expected = kmeans_1d(weights.values, each, 8);
  REQUIRE(q.codebook.size() == 8);
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(q.codebook[i] == Approx(expected[std::min(i, expected.size() - 1)]).epsilon(1e-6));
  }
  const QuantizedTensor blocks = kmeans_quantize(weights.view(), learned(2, Strategy::block), each);
  std::vector<float> values, importance;
  for (std::uint64_t r = 3; r < 6; ++r) {
    for (std::uint64_t c = 20; c < 40; ++c) {
      values.push_back(weights.at(r, c));
      importance.push_back(each[r * 40 + c]);
    }
  }
  const auto last = kmeans_1d(values, importance, 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(blocks.codebook[3 * 4 + i] == Approx(last[i]).epsilon(1e-6));
}

TEST_CASE("importance of columns is that of each of their weights; all zero counts as equal") {
  const Weights weights = sample_weights(3, 64, DType::BF16);
  std::vector<float> columns(64), each(3 * 64);
  for (std::size_t c = 0; c < 64; ++c) columns[c] = static_cast<float>(1 + c % 7);
  for (std::size_t i = 0; i < each.size(); ++i) each[i] = columns[i % 64];
  const QuantArgs args = learned(3, Strategy::channel);
  CHECK(kmeans_quantize(weights.view(), args, columns).codebook ==
        kmeans_quantize(weights.view(), args, each).codebook);
  const std::vector<float> zeros(64);
  CHECK(kmeans_quantize(weights.view(), args, zeros).codebook == kmeans_quantize(weights.view(), args).codebook);
}

TEST_CASE("the codebook of a large tensor is that of all its weights, on any number of threads") {
  // More than one part of rows; F32 values are nearly all different, BF16 ones repeat.
  for (const DType type : {DType::F32, DType::BF16}) {
    const Weights weights = sample_weights(1100, 2000, type, 12);
    std::vector<float> columns(2000), each(weights.values.size());
    for (std::size_t c = 0; c < columns.size(); ++c) columns[c] = static_cast<float>(c % 17);
    for (std::size_t i = 0; i < each.size(); ++i) each[i] = columns[i % 2000];
    const auto quantizer = make_kmeans({KMeansMethod::lloyd, false});
    const QuantArgs args = learned(3, Strategy::tensor);
    const auto one = quantizer->prepare(weights.view(), args, columns, 1).codebook;
    CHECK(*quantizer->prepare(weights.view(), args, columns, 3).codebook == *one);
    const auto expected = kmeans_1d(weights.values, each, 8, KMeansMethod::lloyd);
    REQUIRE((one->size() == 8 && expected.size() == 8));
    for (std::size_t i = 0; i < 8; ++i) CHECK((*one)[i] == Approx(expected[i]).epsilon(1e-5).margin(1e-7));
    const std::vector<float> zeros(2000);
    CHECK(*quantizer->prepare(weights.view(), args, zeros, 2).codebook ==
          *quantizer->prepare(weights.view(), args, {}, 2).codebook);
  }
}

TEST_CASE("an exact partition beyond the table's limit is refused with its size") {
  std::vector<float> values(300000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  try {
    kmeans_1d(values, {}, 256, KMeansMethod::exact);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    CHECK(std::string(error.what()).find("300000 different values into 256 clusters") != std::string::npos);
    CHECK(std::string(error.what()).find("307200000 bytes") != std::string::npos);
  }
  CHECK(kmeans_1d(values, {}, 256, KMeansMethod::automatic).size() == 256);
}

TEST_CASE("wrong use is refused with the number that is wrong") {
  const std::vector<float> values = {1, 2, 3}, negative = {1, -1, 1}, nan = {1, std::nanf(""), 2};
  CHECK_THROWS_AS(kmeans_1d(values, negative, 2), Error);
  CHECK_THROWS_AS(kmeans_1d(nan, {}, 2), Error);
  CHECK_THROWS_AS(kmeans_1d(values, {}, 0), Error);
  CHECK(kmeans_1d({}, {}, 4).empty());
  const Weights weights = sample_weights(2, 16, DType::F32);
  CHECK_THROWS_AS(kmeans_quantize(weights.view(), learned(9, Strategy::channel)), Error);
  CHECK_THROWS_AS(kmeans_quantize(weights.view(), observed(learned(3, Strategy::channel), "mse")), Error);
  CHECK(make_kmeans()->unsupported(observed(learned(3, Strategy::channel), "percentile"))->find("percentile") !=
        std::string::npos);
  CHECK_THROWS_AS(kmeans_quantize(weights.view(), make_args(NumberType::integer, 4, true, Strategy::channel)), Error);
  CHECK_THROWS_AS(kmeans_quantize(weights.view(), learned(3, Strategy::channel), values), Error);
}
