// Inputs that a factorization cannot take: nothing fails, and the record says what was done.
#include <limits>

#include "gptq/helpers.h"
#include "quant/error.h"
#include "quant/rtn.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

const QuantArgs kArgs = make_args(NumberType::integer, 4, false, Strategy::group, 16);

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool complete(const QuantizedTensor& q) {
  std::size_t wrong = 0;
  for (const float scale : q.scales) wrong += !std::isfinite(scale) || scale == 0 ? 1 : 0;
  for (const std::int8_t code : q.codes) wrong += code < code_min(q.args) || code > code_max(q.args) ? 1 : 0;
  return wrong == 0;
}

}  // namespace

TEST_CASE("fewer tokens than channels: the usual damping is enough") {
  const Weights weights = sample_weights(6, 96, DType::F32);
  const GptqResult result = gptq_quantize(weights.values, 6, correlated_inputs(96, 40), kArgs);
  CHECK(result.record.fallback.empty());
  CHECK(result.record.damping == 0.01);
  CHECK(complete(result.tensor));
}

TEST_CASE("a singular H without damping climbs the ladder and says so") {
  const Weights weights = sample_weights(6, 64, DType::F32);
  InputStatistics inputs = correlated_inputs(64, 500);
  for (std::uint64_t i = 0; i < 64; ++i) {  // channel 7 repeats channel 3
    inputs.gram[i * 64 + 7] = inputs.gram[i * 64 + 3];
  }
  for (std::uint64_t i = 0; i < 64; ++i) inputs.gram[7 * 64 + i] = inputs.gram[3 * 64 + i];
  for (std::uint64_t i = 0; i < 64 * 64; ++i) inputs.gram[i] -= i % 65 == 0 ? 1e-5F : 0.0F;  // just indefinite
  GptqOptions options;
  options.dampening_frac = 0;
  const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs, options);
  CHECK(result.record.fallback.empty());
  CHECK(result.record.damping > 0);
  REQUIRE(result.record.notes.size() == 1);
  CHECK(contains(result.record.notes[0], "not positive definite"));
  CHECK(complete(result.tensor));
}

TEST_CASE("an indefinite H ends in weighted rounding") {
  const std::uint64_t rows = 6, cols = 48;
  const Weights weights = sample_weights(rows, cols, DType::F32);
  InputStatistics inputs = correlated_inputs(cols, 300);
  for (std::uint64_t i = 0; i < cols * cols; ++i) inputs.gram[i] *= i % (cols + 1) == 0 ? 1.0F : 1e6F;
  const GptqResult result = gptq_quantize(weights.values, rows, inputs, kArgs);
  CHECK(contains(result.record.fallback, "not positive definite with any damping"));
  CHECK(contains(result.record.fallback, "weighted"));
  std::vector<float> importance;
  for (std::uint64_t i = 0; i < cols; ++i) importance.push_back(inputs.gram[i * cols + i]);
  CHECK(same_result(result.tensor, [&] {
    QuantizedTensor q = rtn_quantize(weights.view(), observed(kArgs, "mse_search"), importance);
    return q;
  }()));
  CHECK(result.tensor.args == kArgs);
}

TEST_CASE("statistics that say nothing end in rounding to nearest") {
  const Weights weights = sample_weights(6, 48, DType::F32);
  const QuantizedTensor nearest = rtn_quantize(weights.view(), kArgs);
  InputStatistics inputs = correlated_inputs(48, 300);
  SECTION("no tokens") {
    inputs.tokens = 0;
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs);
    CHECK(contains(result.record.fallback, "no calibration token"));
    CHECK(same_result(result.tensor, nearest));
  }
  SECTION("no Gram matrix") {
    inputs.gram.clear();
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs);
    CHECK(contains(result.record.fallback, "no Gram matrix"));
    CHECK(same_result(result.tensor, nearest));
  }
  SECTION("a NaN on the diagonal") {
    inputs.gram[49] = std::numeric_limits<float>::quiet_NaN();
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs);
    CHECK(contains(result.record.fallback, "not finite"));
    CHECK(same_result(result.tensor, nearest));
  }
  SECTION("an infinity beside it: the diagonal is still used") {
    inputs.gram[3] = std::numeric_limits<float>::infinity();
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs);
    CHECK(contains(result.record.fallback, "weighted"));
    CHECK(complete(result.tensor));
  }
  SECTION("inputs that were always 0") {
    std::fill(inputs.gram.begin(), inputs.gram.end(), 0.0F);
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs);
    CHECK(contains(result.record.fallback, "all inputs are 0"));
    CHECK(same_result(result.tensor, nearest));
  }
}

TEST_CASE("without the unquantized model's inputs earlier errors stay, and the record says so") {
  const Weights weights = sample_weights(6, 48, DType::F32);
  InputStatistics inputs = correlated_inputs(48, 300);
  GptqOptions options;
  const GptqResult plain = gptq_quantize(weights.values, 6, inputs, kArgs, options);
  options.asymmetric = 0.5;
  const auto check = [&] {
    const GptqResult result = gptq_quantize(weights.values, 6, inputs, kArgs, options);
    CHECK(result.record.fallback.empty());
    REQUIRE(result.record.notes.size() == 1);
    CHECK(contains(result.record.notes[0], "cross-Gram"));
    CHECK(same_result(result.tensor, plain.tensor));
  };
  check();
  inputs.cross_gram.assign(inputs.gram.size(), std::numeric_limits<float>::infinity());
  check();
}

TEST_CASE("a starved linear is rounded with weights, below the threshold only") {
  const Weights weights = sample_weights(6, 48, DType::F32);
  GptqOptions options;
  options.fallback_threshold = 100;
  CHECK(contains(gptq_quantize(weights.values, 6, correlated_inputs(48, 99), kArgs, options).record.fallback,
                 "only 99 calibration tokens"));
  CHECK(gptq_quantize(weights.values, 6, correlated_inputs(48, 100), kArgs, options).record.fallback.empty());
}

TEST_CASE("weights of inputs that were always 0 are rounded to nearest, or set to 0") {
  const std::uint64_t rows = 6, cols = 64;
  const Weights weights = sample_weights(rows, cols, DType::F32);
  InputStatistics inputs = correlated_inputs(cols, 300);
  for (const std::uint64_t dead : {std::uint64_t{5}, std::uint64_t{40}}) {
    for (std::uint64_t i = 0; i < cols; ++i) inputs.gram[i * cols + dead] = inputs.gram[dead * cols + i] = 0;
  }
  const QuantizedTensor nearest = rtn_quantize(weights.view(), kArgs);
  for (const ColumnOrder order : {ColumnOrder::none, ColumnOrder::weight, ColumnOrder::group_aware}) {
    GptqOptions options;
    options.order = order;
    const GptqResult result = gptq_quantize(weights.values, rows, inputs, kArgs, options);
    CHECK(result.record.fallback.empty());
    REQUIRE(result.record.notes.size() == 1);
    CHECK(contains(result.record.notes[0], "2 of 64 inputs (3.1 %) were always 0"));
    options.zero_dead_columns = true;
    const GptqResult zeroed = gptq_quantize(weights.values, rows, inputs, kArgs, options);
    std::vector<float> row(cols);
    for (std::uint64_t r = 0; r < rows; ++r) {
      CHECK(result.tensor.codes[r * cols + 5] == nearest.codes[r * cols + 5]);
      CHECK(result.tensor.codes[r * cols + 40] == nearest.codes[r * cols + 40]);
      dequantize_row(zeroed.tensor, r, row);
      CHECK(row[5] == 0);
      CHECK(row[40] == 0);
    }
  }
}

TEST_CASE("H of extreme size works as H of ordinary size") {
  const Weights weights = sample_weights(6, 64, DType::F32);
  const InputStatistics inputs = correlated_inputs(64, 300);
  const GptqResult usual = gptq_quantize(weights.values, 6, inputs, kArgs);
  for (const float factor : {0x1p-90F, 0x1p90F}) {
    InputStatistics scaled = inputs;
    for (float& value : scaled.gram) value *= factor;
    const GptqResult result = gptq_quantize(weights.values, 6, scaled, kArgs);
    CHECK(result.record.fallback.empty());
    CHECK(same_result(result.tensor, usual.tensor));
  }
}

TEST_CASE("huge weights and empty matrices give complete results") {
  Weights weights = sample_weights(6, 64, DType::F32);
  const InputStatistics inputs = correlated_inputs(64, 300);
  for (float& value : weights.values) value *= 1e38F;
  CHECK(complete(gptq_quantize(weights.values, 6, inputs, kArgs).tensor));
  CHECK(gptq_quantize({}, 0, inputs, kArgs).tensor.codes.empty());
}

TEST_CASE("wrong usage is refused with a sentence that names it") {
  const Weights weights = sample_weights(9, 64, DType::F32);
  const InputStatistics inputs = correlated_inputs(64, 100);
  const auto message = [&](const std::vector<float>& values, std::uint64_t rows, const QuantArgs& args,
                           const GptqOptions& options) -> std::string {
    try {
      gptq_quantize(values, rows, inputs, args, options);
    } catch (const Error& error) {
      return std::string(to_string(error.code())) + ": " + error.what();
    }
    return "accepted";
  };
  CHECK(contains(message(weights.values, 8, kArgs, {}), "usage: the weight has 576 weights in 8 rows"));
  GptqOptions options;
  options.block_size = 0;
  CHECK(contains(message(weights.values, 9, kArgs, options), "usage: block_size"));
  options = {};
  options.asymmetric = 1.5;
  CHECK(contains(message(weights.values, 9, kArgs, options), "usage: asymmetric"));
  options = {};
  options.dampening_frac = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message(weights.values, 9, kArgs, options), "usage: dampening_frac"));
  CHECK(contains(message(weights.values, 9, make_args(NumberType::integer, 9, true, Strategy::channel), {}), "usage:"));
  std::vector<float> broken = weights.values;
  broken[6 * 64 + 33] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(message(broken, 9, kArgs, {}), "numerical: the weight at row 6, column 33"));
}
