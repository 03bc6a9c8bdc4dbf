// The formula, and the automatic strength, against float64.
#include "quant/error.h"
#include "quant/smoothquant.h"
#include "smoothquant/sample.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs channel8() { return int_args(8, Strategy::channel); }

/// W8A8: weights per row, inputs per token.
Sample w8a8(std::uint64_t seed = 1) {
  Sample sample(52, 96, {24, 8}, channel8(), seed);
  for (auto& task : sample.tasks) task.input_args = int_args(8, Strategy::token);
  return sample;
}

SmoothQuantOptions strength(double alpha, ActivationRange range = ActivationRange::range) {
  SmoothQuantOptions options;
  options.strength = alpha;
  options.range = range;
  return options;
}

SmoothQuantOptions automatic() {
  SmoothQuantOptions options;
  options.strength.reset();
  return options;
}

double largest_weight(const Sample& sample, std::size_t column) {
  double most = 0;
  for (const auto& weight : sample.weights) {
    for (std::size_t i = column; i < weight.size(); i += sample.cols) {
      most = std::max(most, std::fabs(static_cast<double>(weight[i])));
    }
  }
  return most;
}

}  // namespace

TEST_CASE("the published formula, with the paper's ranges and with llm-compressor's") {
  Sample sample = w8a8();
  for (const double alpha : {0.0, 0.5, 0.8, 1.0}) {
    const auto paper = smoothquant(sample.group(), sample.inputs, strength(alpha, ActivationRange::absmax), 2).factors;
    const auto range = smoothquant(sample.group(), sample.inputs, strength(alpha), 2).factors;
    for (std::size_t c = 0; c < sample.cols; ++c) {
      const double w = largest_weight(sample, c);
      const double a = sample.inputs.absmax[c];
      const double width =
          std::max(0.0, static_cast<double>(sample.inputs.maximum[c])) - std::min(0.0F, sample.inputs.minimum[c]);
      CHECK(paper[c] == Approx(std::pow(a, alpha) / std::pow(w, 1 - alpha)).epsilon(1e-6));
      CHECK(range[c] == Approx(std::pow(width, alpha) / std::pow(2 * w, 1 - alpha)).epsilon(1e-6));
    }
  }
  // Balance: at 1/2 the ranges of inputs and weights of a channel are equal afterwards.
  const auto half = smoothquant(sample.group(), sample.inputs, strength(0.5, ActivationRange::absmax), 1).factors;
  for (std::size_t c = 0; c < sample.cols; ++c) {
    CHECK(sample.inputs.absmax[c] / half[c] == Approx(largest_weight(sample, c) * half[c]).epsilon(1e-5));
  }
}

TEST_CASE("logarithmic equalization") {
  const std::vector<double> activations = {0.0, 1e-30, 2.0, 14.0};
  const auto s = log_equalization_factors(activations);
  CHECK(s[0] == 1.0F);
  CHECK(s[1] == 1e-5F);
  CHECK(s[2] == 1.0F);
  CHECK(s[3] == 3.5F);
}

TEST_CASE("channels without weights or inputs") {
  const std::vector<double> activations = {0.0, 3.0, 1e-12, 4.0};
  const std::vector<double> weights = {1.0, 0.0, 1.0, 1.0};
  const auto s = smoothquant_factors(activations, weights, 0.5);
  CHECK(s[0] == 1.0F);   // never anything but 0
  CHECK(s[1] == 3.0F);   // zero weights
  CHECK(s[2] == 1e-5F);  // the floor
  CHECK(s[3] == 2.0F);
}

TEST_CASE("folding the factors leaves the function as it is") {
  Sample sample = w8a8();
  for (const auto& options : {strength(0.8), automatic()}) {
    const auto s = smoothquant(sample.group(), sample.inputs, options, 1).factors;
    REQUIRE(s.size() == sample.cols);
    CHECK(distance(outputs(sample, {}), outputs(sample, s)) < 1e-6);
  }
}

TEST_CASE("the automatic strength is the grid's best by the error of outputs, computed independently") {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    Sample sample = w8a8(seed);
    const auto found = smoothquant(sample.group(), sample.inputs, automatic(), 2);
    const double unscaled = oracle_loss(sample, {}, 8, 0, true, 8);
    CHECK(found.loss_unscaled == Approx(unscaled).epsilon(1e-3));
    CHECK(found.loss == Approx(oracle_loss(sample, found.factors, 8, 0, true, 8)).epsilon(1e-3));
    double best = unscaled;
    for (int i = 0; i <= 20; ++i) {
      const auto s = smoothquant(sample.group(), sample.inputs, strength(i / 20.0), 1).factors;
      best = std::min(best, oracle_loss(sample, s, 8, 0, true, 8));
    }
    CHECK(found.loss == Approx(best).epsilon(1e-3));
    CHECK(found.loss < 0.3 * unscaled);  // what the outlier channels cost is mostly gone
  }
}

TEST_CASE("static scales of inputs are those that will be stored") {
  Sample sample = w8a8();
  for (auto& task : sample.tasks) task.input_args = int_args(8, Strategy::tensor, 0, false);
  const auto found = smoothquant(sample.group(), sample.inputs, automatic(), 1);
  const double fixed = smoothquant(sample.group(), sample.inputs, automatic(), 1).loss;
  CHECK(found.loss == fixed);
  CHECK(found.loss < found.loss_unscaled);
  CHECK(found.loss_unscaled > oracle_loss(sample, {}, 8, 0, true, 8));  // one scale for all tokens is coarser
}

TEST_CASE("without a better strength nothing is rescaled") {
  Sample sample(16, 32, {8}, channel8());
  for (auto& value : sample.weights[0]) value = 0;
  const auto found = smoothquant(sample.group(), sample.inputs, automatic(), 1);
  CHECK(found.factors.empty());
  CHECK(found.loss == found.loss_unscaled);
}

TEST_CASE("columns that one channel feeds get one factor") {
  Sample sample = w8a8();
  for (std::uint32_t c = 0; c < 52; ++c) sample.channel.push_back(c % 13 + (c >= 26 ? 13 : 0));
  for (const auto& options : {strength(0.5), automatic()}) {
    const auto s = smoothquant(sample.group(ProducerKind::value), sample.inputs, options, 1).factors;
    REQUIRE(s.size() == 52);
    for (std::size_t c = 0; c < 52; ++c) {
      for (std::size_t k = 0; k < 52; ++k) {
        if (sample.channel[c] == sample.channel[k]) CHECK(s[c] == s[k]);
      }
    }
    CHECK(s[0] != s[26]);
  }
}

TEST_CASE("any number of threads gives the same bits") {
  Sample sample = w8a8();
  for (const auto& options : {strength(0.7), automatic()}) {
    const auto one = smoothquant(sample.group(), sample.inputs, options, 1);
    for (const int threads : {2, 3, 7}) {
      const auto many = smoothquant(sample.group(), sample.inputs, options, threads);
      CHECK(many.factors == one.factors);
      CHECK(many.loss == one.loss);
    }
  }
}

TEST_CASE("wrong usage") {
  Sample sample = w8a8();
  const std::vector<double> two = {1, 2};
  const std::vector<double> three = {1, 2, 3};
  CHECK_THROWS_AS(smoothquant_factors(two, three, 0.5), Error);
  CHECK_THROWS_AS(smoothquant_factors(two, two, 1.5), Error);
  CHECK_THROWS_AS(smoothquant_factors(two, two, std::nan("")), Error);
  InputStatistics inputs = sample.inputs;
  inputs.rows.clear();
  CHECK_THROWS_AS(smoothquant(sample.group(), inputs, automatic(), 1), Error);
  inputs.absmax.clear();
  CHECK_THROWS_AS(smoothquant(sample.group(), inputs, strength(0.5), 1), Error);
  inputs = sample.inputs;
  inputs.cols = 51;
  CHECK_THROWS_AS(smoothquant(sample.group(), inputs, strength(0.5), 1), Error);
}
