// The search for factors: laws, and float64 oracles of both losses.
#include <atomic>
#include <limits>

#include "quant/awq.h"
#include "quant/error.h"
#include "quant/smoothing_factors.h"
#include "smoothquant/sample.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs group4(bool symmetric = true) { return int_args(4, Strategy::group, 13, symmetric); }

Sample w4(std::uint64_t seed = 1, bool symmetric = true) { return {52, 96, {24, 8}, group4(symmetric), seed}; }

AwqOptions options_of(DuoScaling duo, AwqLoss loss = AwqLoss::gram) {
  AwqOptions options;
  options.duo_scaling = duo;
  options.loss = loss;
  return options;
}

}  // namespace

TEST_CASE("the grid begins with the identity and has the published ratios") {
  const auto yes = awq_grid(DuoScaling::yes, 20);
  CHECK(yes.size() == 20);
  CHECK(yes[0].identity);
  CHECK((yes[1].ratio == 0.0 && yes[1].duo));
  CHECK((yes[19].ratio == 1.0 && yes[2].ratio == Approx(1.0 / 18)));
  const auto no = awq_grid(DuoScaling::no, 20);
  CHECK(no.size() == 20);
  CHECK((no[0].identity && no[1].ratio == Approx(1.0 / 19) && no[19].ratio == 1.0 && !no[19].duo));
  const auto both = awq_grid(DuoScaling::both, 20);
  CHECK(both.size() == 20);
  CHECK((both[1].duo && !both[2].duo && both[2].ratio == both[3].ratio && both[19].ratio == 1.0));
  CHECK(awq_grid(DuoScaling::both, 3).size() == 4);
  CHECK_THROWS_AS(awq_grid(DuoScaling::yes, 2), Error);
}

TEST_CASE("factors: formula, normalisation, floor and dead channels") {
  const std::vector<double> x = {0.5, 2.0, 0.0, 8.0};
  const auto plain = awq_factors(x, {}, 0.5);
  const double middle = std::sqrt(std::sqrt(0.5) * std::sqrt(8.0));
  CHECK(plain[0] == Approx(std::sqrt(0.5) / middle));
  CHECK(plain[3] == Approx(std::sqrt(8.0) / middle));
  CHECK(plain[2] == 1.0F);
  const std::vector<double> w = {0.25, 1.0, 0.5, 0.1};
  const auto duo = awq_factors(x, w, 0.25);
  double low = 1e9;
  double high = 0;
  for (const std::size_t c : {0U, 1U, 3U}) {
    const double raw = std::pow(x[c], 0.25) / (std::pow(w[c], 0.75) + 1e-4);
    low = std::min(low, raw);
    high = std::max(high, raw);
  }
  for (const std::size_t c : {0U, 1U, 3U}) {
    CHECK(duo[c] == Approx(std::pow(x[c], 0.25) / (std::pow(w[c], 0.75) + 1e-4) / std::sqrt(low * high)));
  }
  CHECK(duo[2] == 1.0F);
  const auto tiny = awq_factors(std::vector<double>{1e-9, 1.0}, {}, 1.0);
  CHECK(tiny[1] / tiny[0] == Approx(1e4));
  const auto silent = awq_factors(std::vector<double>{0.0, 0.0}, {}, 0.5);
  CHECK(silent == std::vector<float>{1.0F, 1.0F});
  CHECK_THROWS_AS(awq_factors(x, std::vector<double>{1.0}, 0.5), Error);
}

TEST_CASE("weight means are relative to each group's largest weight, over all quantized readers") {
  Sample sample = w4();
  std::vector<double> expected(sample.cols, 0);
  for (const auto& weight : sample.weights) {
    for (std::size_t i = 0; i < weight.size(); ++i) {
      double most = 0;
      for (std::size_t k = i / 13 * 13; k < (i / 13 + 1) * 13; ++k) {
        most = std::max(most, std::fabs(static_cast<double>(weight[k])));
      }
      expected[i % sample.cols] += std::fabs(static_cast<double>(weight[i])) / (most + 1e-6) / 32;
    }
  }
  const auto found = awq_weight_means(sample.group(), 2);
  for (std::size_t c = 0; c < expected.size(); ++c) CHECK(found[c] == Approx(expected[c]).epsilon(1e-9));
  sample.tasks[1].quantized = false;
  CHECK(awq_weight_means(sample.group(), 1) != found);
}

TEST_CASE("both losses are what float64 says, and never above that without factors") {
  for (const std::uint64_t seed : {1U, 2U}) {
    for (const bool symmetric : {true, false}) {
      Sample sample = w4(seed, symmetric);
      for (const DuoScaling duo : {DuoScaling::yes, DuoScaling::no, DuoScaling::both}) {
        for (const AwqLoss loss : {AwqLoss::gram, AwqLoss::outputs}) {
          const auto found = awq_search(sample.group(), sample.inputs, options_of(duo, loss), {2, nullptr});
          CHECK(found.loss_unscaled == Approx(oracle_loss(sample, {}, 4, 13, symmetric, 0)).epsilon(1e-3));
          CHECK(found.loss == Approx(oracle_loss(sample, found.factors, 4, 13, symmetric, 0)).epsilon(1e-3));
          CHECK(found.loss < 0.75 * found.loss_unscaled);  // the inputs have outlier channels
        }
      }
    }
  }
}

TEST_CASE("the losses of Gram matrix and real outputs choose the same point on the same inputs") {
  Sample sample = w4();
  const auto gram = awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both), {1, nullptr});
  const auto rows =
      awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both, AwqLoss::outputs), {1, nullptr});
  CHECK(gram.factors == rows.factors);
  CHECK(gram.loss == Approx(rows.loss).epsilon(1e-4));
}

TEST_CASE("real outputs see quantized inputs") {
  Sample sample = w4();
  for (auto& task : sample.tasks) task.input_args = int_args(8, Strategy::token);
  const auto found =
      awq_search(sample.group(), sample.inputs, options_of(DuoScaling::yes, AwqLoss::outputs), {1, nullptr});
  CHECK(found.loss == Approx(oracle_loss(sample, found.factors, 4, 13, true, 8)).epsilon(1e-3));
}

TEST_CASE("folding leaves the function, and equal channels have equal factors") {
  Sample sample = w4();
  const auto free = awq_search(sample.group(), sample.inputs, options_of(DuoScaling::yes), {1, nullptr});
  CHECK(distance(outputs(sample, {}), outputs(sample, free.factors)) < 1e-6);
  for (std::uint32_t c = 0; c < 52; ++c) sample.channel.push_back(c % 26);
  const auto shared =
      awq_search(sample.group(ProducerKind::value), sample.inputs, options_of(DuoScaling::yes), {1, nullptr});
  REQUIRE(shared.factors.size() == 52);
  for (std::size_t c = 0; c < 26; ++c) CHECK(shared.factors[c] == shared.factors[c + 26]);
  CHECK(shared.loss <= shared.loss_unscaled);
  CHECK(shared.loss_unscaled == free.loss_unscaled);
}

TEST_CASE("every strategy and number type can be searched") {
  std::vector<QuantArgs> all = {int_args(3, Strategy::channel), int_args(8, Strategy::tensor),
                                int_args(4, Strategy::group, 16, false)};
  QuantArgs block = int_args(8, Strategy::block);
  block.type = NumberType::floating;
  block.block_structure = {{8, 16}};
  all.push_back(block);
  all.push_back(*preset_scheme("NVFP4A16")->weights);
  all.push_back(*preset_scheme("MXFP4A16")->weights);
  QuantArgs searching = int_args(4, Strategy::group, 16);
  searching.observer = "imatrix_mse";
  all.push_back(searching);
  for (auto args : all) {
    complete_and_check(args, true);
    Sample sample(64, 80, {24}, args);
    if (is_mx(args)) sample.tasks[0].scale_dtype = DType::U8;
    if (is_nvfp4(args)) sample.tasks[0].scale_dtype = DType::F8_E4M3;
    INFO(describe(args));
    const auto found = awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both), {2, nullptr});
    CHECK(found.loss <= found.loss_unscaled);
    CHECK(std::isfinite(found.loss));
    CHECK(found.loss_unscaled > 0);
  }
}

TEST_CASE("any number of threads gives the same bits") {
  Sample sample = w4();
  for (const AwqLoss loss : {AwqLoss::gram, AwqLoss::outputs}) {
    const auto one = awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both, loss), {1, nullptr});
    for (const int threads : {2, 5}) {
      const auto many =
          awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both, loss), {threads, nullptr});
      CHECK(many.factors == one.factors);
      CHECK(many.loss == one.loss);
    }
  }
}

TEST_CASE("perfectly rounded weights, and inputs that never move, are left alone") {
  Sample sample = w4();
  for (auto& weight : sample.weights) {
    for (auto& one : weight) one = 0;
  }
  CHECK(awq_search(sample.group(), sample.inputs, {}, {1, nullptr}).factors.empty());
  Sample silent = w4();
  for (auto& value : silent.inputs.rows) value = 0;
  silent.collect(96);
  const auto found = awq_search(silent.group(), silent.inputs, {}, {1, nullptr});
  CHECK(found.factors.empty());
  CHECK(found.loss == 0);
}

TEST_CASE("wrong usage and a stop") {
  Sample sample = w4();
  InputStatistics inputs = sample.inputs;
  inputs.gram.clear();
  CHECK_THROWS_AS(awq_search(sample.group(), inputs, {}, {1, nullptr}), Error);
  inputs = sample.inputs;
  inputs.rows.clear();
  CHECK_THROWS_AS(awq_search(sample.group(), inputs, options_of(DuoScaling::no, AwqLoss::outputs), {1, nullptr}),
                  Error);
  inputs.mean_abs.clear();
  CHECK_THROWS_AS(awq_search(sample.group(), inputs, {}, {1, nullptr}), Error);
  const std::atomic<bool> stop = true;
  try {
    awq_search(sample.group(), sample.inputs, {}, {1, &stop});
    FAIL("it went on");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::interrupted);
  }
}

TEST_CASE("the modifier asks for what its options need") {
  const auto needs = make_awq({})->needs();
  CHECK((needs.mean_abs && needs.gram && !needs.rows && !needs.absmax));
  const auto outputs_needs = make_awq({{"loss", std::string("outputs")}})->needs();
  CHECK((outputs_needs.mean_abs && !outputs_needs.gram && outputs_needs.rows && outputs_needs.absmax));
  CHECK(make_awq({{"loss", std::string("outputs")}, {"clip", true}})->needs().gram);
  for (const auto kind : {ProducerKind::norm, ProducerKind::value, ProducerKind::gated_product, ProducerKind::relu}) {
    Sample sample = w4();
    CHECK(make_awq({})->wants(sample.group(kind)));
  }
  CHECK(make_awq({})->unsupported(int_args(8, Strategy::token)));
  CHECK_FALSE(make_awq({})->unsupported(group4()));
}

TEST_CASE("the modifier searches, records, exports and imports") {
  TempDir dir;
  Sample sample = w4();
  SolveRecord record;
  const auto factors = make_awq({{"duo_scaling", std::string("both")}, {"export_factors", dir.path().string()}})
                           ->factors(sample.group(), sample.inputs, {1, nullptr}, record);
  const auto expected = awq_search(sample.group(), sample.inputs, options_of(DuoScaling::both), {1, nullptr});
  CHECK(factors == expected.factors);
  CHECK(record.notes.at(0).find("ratio ") == 0);
  const auto file = read_smoothing_factors(dir / "model.layers.0.input_layernorm.json");
  CHECK(file.values.at("loss") == expected.loss);
  CHECK(file.values.at("ratio") == expected.point.ratio);
  const auto importer = make_awq({{"import_factors", dir.path().string()}, {"n_grid", std::int64_t{3}}});
  CHECK(importer->factors(sample.group(), sample.inputs, {1, nullptr}, record) == factors);
  InputStatistics nothing;
  nothing.cols = sample.cols;
  CHECK(make_awq({})->factors(sample.group(), nothing, {}, record).empty());
  CHECK(record.fallback == "not scaled: no calibration token reached it");
}
