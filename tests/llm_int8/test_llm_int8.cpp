// LLM.int8(): codes and outlier columns of bitsandbytes (made by make_golden.py), the mixed product in float64, the
// worked example, and counts of outlier columns.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "quant/error.h"
#include "quant/forward.h"
#include "quant/llm_int8.h"
#include "rtn/reference.h"
#include "support/catch.h"
#include "support/golden.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs weights_args() {
  return with(make_args(NumberType::integer, 8, true, Strategy::channel), "symmetric_range", std::string("restricted"));
}

InputQuantizer inputs(double threshold) {
  InputQuantizer quantizer;
  quantizer.args =
      with(make_args(NumberType::integer, 8, true, Strategy::token), "symmetric_range", std::string("restricted"));
  quantizer.args.dynamic = Dynamic::yes;
  quantizer.args.outlier_threshold = threshold;
  return quantizer;
}

std::vector<double> product(const std::vector<float>& x, const QuantizedTensor& w) {
  const std::size_t tokens = x.size() / w.cols;
  std::vector<double> y(tokens * w.rows);
  std::vector<float> row(w.cols);
  for (std::uint64_t o = 0; o < w.rows; ++o) {
    dequantize_row(w, o, row);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::uint64_t c = 0; c < w.cols; ++c) {
        y[t * w.rows + o] += static_cast<double>(x[t * w.cols + c]) * static_cast<double>(row[c]);
      }
    }
  }
  return y;
}

std::vector<float> halves(const GoldenFile& golden, const std::string& name) {
  const TensorView& view = golden.tensor(name);
  std::vector<float> values(element_count(view.shape));
  read_f32(view, 0, values);
  return values;
}

}  // namespace

TEST_CASE("codes are those of bitsandbytes, products those of the mixed algorithm") {
  const GoldenFile golden(std::filesystem::path(QUANT_SOURCE_DIR) / "tests/llm_int8/golden/llm_int8.safetensors");
  for (const std::string name : {"0.", "1.", "2.", "3."}) {
    INFO(name);
    const QuantizedTensor q = llm_int8_quantize(golden.tensor(name + "weight"), weights_args());
    CHECK(q.codes == golden.values<std::int8_t>(name + "codes"));
    const auto scb = golden.values<float>(name + "SCB");
    REQUIRE(q.scales.size() == scb.size());
    for (std::size_t r = 0; r < scb.size(); ++r) CHECK(q.scales[r] == scb[r] / 127.0F);

    const std::vector<float> x = halves(golden, name + "x");
    const std::uint64_t tokens = x.size() / q.cols;
    std::vector<float> mixed = x;
    fake_quantize_rows(mixed, tokens, inputs(6.0), 2);
    for (const std::int32_t column : golden.values<std::int32_t>(name + "columns")) {
      for (std::uint64_t t = 0; t < tokens; ++t) {
        const std::size_t at = t * q.cols + static_cast<std::uint64_t>(column);
        CHECK(mixed[at] == x[at]);
      }
    }
    const auto sca = golden.values<float>(name + "SCA");
    const auto wanted = golden.values<double>(name + "y");
    const auto y = product(mixed, q);
    REQUIRE(y.size() == wanted.size());
    // Each value may be a unit of float32's last place off; a code that is a tie may be one off.
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double step = static_cast<double>(sca[i / q.rows]) / 127;
      CHECK(std::fabs(y[i] - wanted[i]) <= 1e-5 * (1 + std::fabs(wanted[i])) + 1e-6 * step);
    }
  }
}

TEST_CASE("the worked example: two rows, one outlier column, ties to even") {
  const std::vector<float> w = {0.5F, -1.0F, 0.25F, 0.1F, 2.0F, 0.3F, -0.7F, 1.1F};
  const QuantizedTensor q = llm_int8_quantize(f32_view(w, 2, 4), weights_args());
  CHECK(q.codes == std::vector<std::int8_t>{64, -127, 32, 13, 127, 19, -44, 70});
  CHECK(q.scales == std::vector<float>{1.0F / 127.0F, 2.0F / 127.0F});
  std::vector<float> x = {1.0F, 7.5F, -2.0F, 0.5F};
  fake_quantize_rows(x, 1, inputs(6.0), 1);
  const float scale = 2.0F / 127.0F;
  CHECK(x == std::vector<float>{64.0F * scale, 7.5F, -127.0F * scale, 32.0F * scale});
  const auto y = product(x, q);
  CHECK(y[0] == Approx(-7.444448).epsilon(1e-6));
  CHECK(y[1] == Approx(6.201190).epsilon(1e-6));
}

TEST_CASE("a threshold that nothing reaches, or of 0, changes nothing; bits do not depend on threads") {
  const Weights values = sample_weights(70, 900, DType::F32);
  std::vector<float> plain = values.values, high = values.values, low = values.values, again = values.values;
  fake_quantize_rows(plain, 70, inputs(0), 1);
  fake_quantize_rows(high, 70, inputs(1000), 2);
  CHECK(plain == high);
  fake_quantize_rows(low, 70, inputs(0.2), 1);
  fake_quantize_rows(again, 70, inputs(0.2), 3);
  CHECK(low == again);
  CHECK(low != plain);
  // Less error with outliers out of the way.
  double with_outliers = 0, without = 0;
  for (std::size_t i = 0; i < low.size(); ++i) {
    with_outliers += std::pow(static_cast<double>(plain[i] - values.values[i]), 2);
    without += std::pow(static_cast<double>(low[i] - values.values[i]), 2);
  }
  CHECK(without < with_outliers);
}

TEST_CASE("a row that is not finite becomes NaN, and its neighbours do not") {
  std::vector<float> x = {1.0F, std::numeric_limits<float>::infinity(), 2.0F, 3.0F};
  fake_quantize_rows(x, 2, inputs(6.0), 1);
  CHECK((std::isnan(x[0]) && std::isnan(x[1])));
  CHECK(x[2] == Approx(2.0F).epsilon(1e-2));
  CHECK(x[3] == 3.0F);
}

TEST_CASE("rows of zeros, huge and tiny rows stay finite") {
  const std::vector<float> w = {0.0F, 0.0F, 3e38F, -3e38F, 1e-40F, 0.0F, 2e-36F, -5e-37F};
  const QuantizedTensor q = llm_int8_quantize(f32_view(w, 4, 2), weights_args());
  CHECK(q.codes == std::vector<std::int8_t>{0, 0, 127, -127, 0, 0, 127, -32});
  for (const float scale : q.scales) CHECK((std::isfinite(scale) && scale > 0));
}

TEST_CASE("with a scale of fewer bits, codes are those of the scale that is stored") {
  const auto quantizer = make_llm_int8();
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (const DType type : {DType::F16, DType::BF16, DType::F32}) {
    for (const float size : {2e-6F, 9e-6F, 2e-4F, 1e-3F, 1e-2F, 1.0F, 300.0F}) {
      std::vector<float> w = {size, -0.5F * size, 0.2F * size, 0, 0, 0, 0, 0};
      for (std::size_t i = 3; i < w.size(); ++i) w[i] = size * std::clamp(normal(random) / 3, -1.0F, 1.0F);
      QuantizedTensor q;
      quantizer->quantize_rows(f32_view(w, 1, w.size()), weights_args(), type, {}, {}, q, {});
      // No larger than the row asks for, but for what the type's distances make it.
      CHECK(q.scales[0] <= size / 127 * (1 + 0x1p-8F) + 0x1p-24F);
      INFO("scales of " << dtype_name(type) << ", largest weight " << size << ", scale " << q.scales[0]);
      CHECK(round_to_dtype(type, q.scales[0]) == q.scales[0]);
      std::vector<float> row(w.size());
      dequantize_row(q, 0, row);
      for (std::size_t i = 0; i < w.size(); ++i) CHECK(std::fabs(row[i] - w[i]) <= 0.501F * q.scales[0]);
    }
  }
}

TEST_CASE("outlier columns are counted and told in a note") {
  const std::vector<float> absmax = {1.0F, 6.0F, 5.99F, 40.0F};
  const OutlierColumns found = count_outlier_columns(absmax, 6.0);
  CHECK((found.count == 2 && found.columns == 4 && found.largest == 40.0F));
  CHECK(count_outlier_columns(absmax, 0).count == 0);
  CHECK(count_outlier_columns({}, 6).columns == 0);
  const Weights weights = sample_weights(300, 4, DType::F32);
  std::vector<float> values = weights.values;
  QuantizedTensor out;
  LinearTask task;
  task.rows = 300;
  task.cols = 4;
  task.weight = values;
  task.args = weights_args();
  task.input_args = inputs(6.0).args;
  task.out = &out;
  InputStatistics statistics;
  statistics.tokens = 1000;
  statistics.cols = 4;
  statistics.absmax = absmax;
  const auto algorithm = make_llm_int8_with_statistics();
  CHECK(algorithm->needs().absmax);
  algorithm->quantize({&task, 1}, statistics, {});
  CHECK(out.codes == llm_int8_quantize(weights.view(), weights_args()).codes);
  REQUIRE(task.record.notes.size() == 1);
  CHECK(task.record.notes[0] ==
        "LLM.int8(): 2 of 4 input columns (50.00 %) reach 6 in 1000 tokens; the largest magnitude is 40");
}

TEST_CASE("wrong use is refused") {
  const Weights weights = sample_weights(2, 32, DType::F32);
  CHECK_THROWS_AS(llm_int8_quantize(weights.view(), make_args(NumberType::integer, 8, true, Strategy::channel)), Error);
  QuantArgs grouped = weights_args();
  grouped.strategy = Strategy::group;
  grouped.group_size = 16;
  CHECK_THROWS_AS(llm_int8_quantize(weights.view(), grouped), Error);
  QuantArgs args = inputs(6.0).args;
  CHECK(complete_and_check(args, true).empty());
  args.outlier_threshold = -1;
  CHECK(!complete_and_check(args, true).empty());
  args = weights_args();
  args.outlier_threshold = 6;
  CHECK(!complete_and_check(args, true).empty());
}
