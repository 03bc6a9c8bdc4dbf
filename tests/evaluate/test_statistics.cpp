#include <cmath>
#include <numeric>

#include "evaluate/fake_model.h"
#include "support/catch.h"

using namespace quant;
using quant::test::reference_softmax;

namespace {

std::vector<float> random_logits(std::size_t count, float spread, unsigned seed) {
  std::minstd_rand random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(count);
  for (float& value : logits) value = normal(random);
  return logits;
}

long double reference_divergence(const std::vector<float>& base, const std::vector<float>& model) {
  const auto p = reference_softmax(base);
  const auto q = reference_softmax(model);
  long double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * std::log(p[i] / q[i]);
  return sum;
}

std::vector<std::size_t> reference_top(const std::vector<float>& logits) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  order.resize(std::min<std::size_t>(5, order.size()));
  return order;
}

double reference_common(const std::vector<float>& base, const std::vector<float>& model) {
  const auto a = reference_top(base);
  const auto b = reference_top(model);
  double common = 0;
  for (const auto index : a) common += std::count(b.begin(), b.end(), index) != 0 ? 1 : 0;
  return common / static_cast<double>(a.size());
}

}  // namespace

TEST_CASE("the loss of a prediction is that of a long double softmax") {
  for (const float spread : {0.1F, 3.0F, 40.0F}) {
    const auto logits = random_logits(5000, spread, 7);
    const auto p = reference_softmax(logits);
    for (const std::int32_t target : {0, 17, 4999}) {
      const double expected = static_cast<double>(-std::log(p[static_cast<std::size_t>(target)]));
      CHECK(token_loss(logits, target) == Approx(expected).epsilon(1e-13));
    }
  }
  CHECK(token_loss(std::vector<float>(4096, 2.5F), 3) == Approx(std::log(4096.0)).epsilon(1e-15));
  CHECK(token_loss(std::vector<float>{1e30F, -1e30F}, 0) == 0.0);
}

TEST_CASE("divergence and agreement of two predictions are those of long double distributions") {
  std::vector<double> scratch;
  for (const float noise : {1e-4F, 0.03F, 1.0F}) {
    for (unsigned seed = 1; seed < 20; ++seed) {
      const auto base = random_logits(700, 3.0F, seed);
      auto model = base;
      const auto change = random_logits(700, noise, seed + 100);
      for (std::size_t i = 0; i < model.size(); ++i) model[i] += change[i];
      const PredictionPair pair = compare_predictions(base, model, 11, scratch);
      const double expected = static_cast<double>(reference_divergence(base, model));
      INFO(noise << " " << seed);
      CHECK(pair.divergence == Approx(expected).epsilon(1e-9).margin(1e-14));
      CHECK(pair.nats == token_loss(model, 11));
      CHECK(pair.base_nats == token_loss(base, 11));
      CHECK(pair.same_top == (reference_top(base)[0] == reference_top(model)[0]));
      CHECK(pair.top5 == reference_common(base, model));
    }
  }
}

TEST_CASE("a prediction does not diverge from itself, nor from itself shifted") {
  std::vector<double> scratch;
  auto logits = random_logits(4096, 5.0F, 3);
  PredictionPair pair = compare_predictions(logits, logits, 0, scratch);
  CHECK(pair.divergence == 0.0);
  CHECK(pair.same_top);
  CHECK(pair.top5 == 1.0);
  std::vector<float> shifted = logits;
  for (std::size_t i = 0; i < logits.size(); ++i) shifted[i] = (logits[i] = std::round(logits[i] * 64) / 64) + 8.0F;
  pair = compare_predictions(logits, shifted, 0, scratch);
  CHECK(pair.divergence < 1e-14);
  CHECK(pair.nats == Approx(pair.base_nats).epsilon(1e-14));
}

TEST_CASE("of equal logits the first counts as likeliest") {
  std::vector<double> scratch;
  const std::vector<float> base{1, 5, 5, 0, 0, 0, 0, 0};
  CHECK(compare_predictions(base, std::vector<float>{0, 9, 9, 1, 2, 3, 0, 0}, 0, scratch).same_top);
  const PredictionPair other = compare_predictions(base, std::vector<float>{0, 8, 9, 0, 0, 0, 0, 0}, 0, scratch);
  CHECK_FALSE(other.same_top);
  CHECK(other.top5 == 1.0);  // {1, 2, 0, 3, 4} and {2, 1, 0, 3, 4}
  CHECK(compare_predictions(std::vector<float>{1, 2}, std::vector<float>{2, 1}, 0, scratch).top5 == 1.0);
}

TEST_CASE("a token that the base rules out adds no divergence") {
  std::vector<double> scratch;
  const float never = -std::numeric_limits<float>::infinity();
  const PredictionPair pair =
      compare_predictions(std::vector<float>{1, 2, never}, std::vector<float>{1, 2, never}, 0, scratch);
  CHECK(pair.divergence == 0.0);
  const PredictionPair leaked =
      compare_predictions(std::vector<float>{0, 0, never}, std::vector<float>{0, 0, 0}, 0, scratch);
  CHECK(leaked.divergence == Approx(std::log(1.5)).epsilon(1e-12));
}

TEST_CASE("the mean over windows carries the standard error of independent windows") {
  const std::vector<double> totals{10, 14, 9, 15};
  const Estimate equal = mean_over_windows(totals, std::vector<std::uint64_t>(4, 2));
  CHECK(equal.mean == 6.0);  // window means 5, 7, 4.5, 7.5: sample variance 13/6 = 2.1667
  CHECK(equal.error == Approx(std::sqrt((1 + 1 + 2.25 + 2.25) / 3 / 4)).epsilon(1e-14));
  CHECK(std::isnan(mean_over_windows(std::vector<double>{3}, std::vector<std::uint64_t>{2}).error));
  CHECK(mean_over_windows(std::vector<double>{3, 6, 9}, std::vector<std::uint64_t>{1, 2, 3}).error == 0.0);
}

TEST_CASE("the standard error is the spread of the estimate over repeated samples") {
  std::minstd_rand random(5);
  std::normal_distribution<double> level(3.0, 0.5);
  std::vector<double> means;
  double errors = 0;
  constexpr int kRounds = 2000;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<double> totals;
    std::vector<std::uint64_t> counts;
    for (int w = 0; w < 40; ++w) {
      counts.push_back(5 + random() % 20);
      totals.push_back(level(random) * static_cast<double>(counts.back()));
    }
    const Estimate estimate = mean_over_windows(totals, counts);
    means.push_back(estimate.mean);
    errors += estimate.error / kRounds;
  }
  double squares = 0;
  for (const double mean : means) squares += (mean - 3.0) * (mean - 3.0) / kRounds;
  CHECK(errors == Approx(std::sqrt(squares)).epsilon(0.06));
}
