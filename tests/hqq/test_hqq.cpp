// Half-quadratic quantization against float64 golden values (made by make_golden.py) and its own laws.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/hqq.h"
#include "quant/rtn.h"
#include "rtn/reference.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs real_zeros(int bits, std::int64_t group, DType zeros = DType::F32) {
  QuantArgs args = make_args(NumberType::integer, bits, false, Strategy::group, group);
  if (zeros != DType::I8) args.zp_dtype = zeros;
  return args;
}

// Sum of |error|^p of one row in float64, from the definition of a quantized tensor's value.
double objective(const std::vector<float>& weights, const QuantizedTensor& q, std::uint64_t row, double norm) {
  std::vector<float> values(q.cols);
  dequantize_row(q, row, values);
  double sum = 0;
  for (std::uint64_t c = 0; c < q.cols; ++c) {
    sum += std::pow(std::fabs(static_cast<double>(weights[row * q.cols + c]) - static_cast<double>(values[c])), norm);
  }
  return sum;
}

}  // namespace

TEST_CASE("scales, zero points and errors are those of the float64 golden file") {
  const auto cases = nlohmann::json::parse(std::ifstream(QUANT_SOURCE_DIR "/tests/hqq/golden/hqq.json"));
  REQUIRE(cases.size() == 12);
  for (const auto& item : cases) {
    auto weights = item.at("weights_times_65536").get<std::vector<float>>();
    for (float& weight : weights) weight /= 65536.0F;
    const auto group = item.at("group").get<std::uint64_t>();
    const std::uint64_t rows = weights.size() / group;
    HqqOptions options;
    options.unit = item.at("steps").get<bool>() ? HqqUnit::steps : HqqUnit::weights;
    const auto& given = item.at("options");
    options.lp_norm = given.value("p", options.lp_norm);
    options.beta = given.value("beta", options.beta);
    options.kappa = given.value("kappa", options.kappa);
    options.iters = given.value("iters", options.iters);
    const bool whole = item.at("whole");
    const QuantArgs args =
        real_zeros(item.at("bits"), static_cast<std::int64_t>(group), whole ? DType::I8 : DType::F32);
    const QuantizedTensor q = hqq_quantize(f32_view(weights, rows, group), args, {}, options);
    INFO(describe(args) << ", " << options.iters << " iterations, p " << options.lp_norm << ", beta " << options.beta);
    REQUIRE(q.scales.size() == rows);
    REQUIRE(q.real_zero_points.size() == (whole ? 0 : rows));
    std::size_t same = 0;
    for (std::uint64_t r = 0; r < rows; ++r) {
      const double error = objective(weights, q, r, options.lp_norm), golden = item.at("errors").at(r);
      CHECK(error == Approx(golden).epsilon(2e-4));
      CHECK(error <= item.at("plain").at(r).get<double>() * (1 + 1e-5));
      // Iterates of nearly the same error may change places.
      const double zero = whole ? static_cast<double>(q.zero_points[r]) : static_cast<double>(q.real_zero_points[r]);
      const double wanted = item.at("zeros").at(r);
      const double scale = item.at("scales").at(r);
      same += std::fabs(zero - wanted) <= 1e-4 * (1 + std::fabs(wanted)) &&
                      std::fabs(static_cast<double>(q.scales[r]) - scale) <= 1e-6 * scale
                  ? 1
                  : 0;
    }
    CHECK(same + 1 >= rows);
  }
}

TEST_CASE("never worse than round to nearest in the sum that it makes small, and far better at 2 bits") {
  const Weights weights = sample_weights(24, 256, DType::F32, 3);
  for (const DType zeros : {DType::F32, DType::F16, DType::I8}) {
    for (int bits = 1; bits <= 8; ++bits) {
      const QuantArgs args = real_zeros(bits, 64, zeros);
      const double plain = total_error(weights, rtn_quantize(weights.view(), real_zeros(bits, 64, DType::I8)), 0.7);
      const double found = total_error(weights, hqq_quantize(weights.view(), args), 0.7);
      INFO(describe(args));
      CHECK(found <= plain * (1 + 1e-5));
      if (bits == 2 && zeros != DType::I8) CHECK(found < 0.98 * plain);
    }
  }
}

TEST_CASE("whole zero points are what compressed-tensors holds") {
  const Weights weights = sample_weights(8, 128, DType::F16);
  const QuantizedTensor q = hqq_quantize(weights.view(), real_zeros(4, 32, DType::I8));
  CHECK(q.real_zero_points.empty());
  REQUIRE(q.zero_points.size() == 32);
  for (const std::int8_t zero : q.zero_points) CHECK((zero >= -8 && zero <= 7));
}

TEST_CASE("scales and zero points are values of the types that store them") {
  const Weights weights = sample_weights(8, 128, DType::F16);
  QuantArgs args = real_zeros(3, 32, DType::F16);
  args.scale_dtype = DType::BF16;
  const QuantizedTensor q = hqq_quantize(weights.view(), args);
  for (const float scale : q.scales) CHECK(round_to_dtype(DType::BF16, scale) == scale);
  for (const float zero : q.real_zero_points) CHECK(round_to_dtype(DType::F16, zero) == zero);
}

TEST_CASE("importance moves the error to columns that weigh little") {
  const Weights weights = sample_weights(16, 64, DType::F32, 5);
  std::vector<float> importance(64, 1.0F);
  for (std::size_t c = 0; c < 64; c += 2) importance[c] = 50.0F;
  const QuantArgs args = real_zeros(2, 64);
  const double plain = total_error(weights, hqq_quantize(weights.view(), args), 0.7, importance);
  const double weighted = total_error(weights, hqq_quantize(weights.view(), args, importance), 0.7, importance);
  CHECK(weighted < plain);
}

TEST_CASE("groups without a range, and tiny or huge ones, stay finite") {
  for (const float value : {0.0F, 0.25F, -3.0F, 1e-37F, 3e38F}) {
    const std::vector<float> weights(64, value);
    const QuantizedTensor q = hqq_quantize(f32_view(weights, 1, 64), real_zeros(4, 64));
    std::vector<float> row(64);
    dequantize_row(q, 0, row);
    for (const float v : row) CHECK(v == Approx(value).epsilon(1e-3));
  }
  std::vector<float> narrow(64, 1000.0F);
  narrow[3] = 1000.25F;
  const QuantizedTensor q = hqq_quantize(f32_view(narrow, 1, 64), real_zeros(4, 64, DType::F16));
  for (const float zero : q.real_zero_points) CHECK(std::isfinite(zero));
}

TEST_CASE("wrong use is refused") {
  const Weights weights = sample_weights(2, 32, DType::F32);
  CHECK_THROWS_AS(hqq_quantize(weights.view(), make_args(NumberType::integer, 4, true, Strategy::group, 32)), Error);
  CHECK_THROWS_AS(hqq_quantize(weights.view(), make_args(NumberType::integer, 4, false, Strategy::tensor)), Error);
  CHECK_THROWS_AS(hqq_quantize(weights.view(), real_zeros(4, 32), std::vector<float>(5, 1.0F)), Error);
  QuantArgs observed_args = real_zeros(4, 32);
  observed_args.observer = "mse";
  CHECK_THROWS_AS(hqq_quantize(weights.view(), observed_args), Error);
  for (const auto& spoil :
       std::vector<void (*)(HqqOptions&)>{[](HqqOptions& o) { o.lp_norm = 0; }, [](HqqOptions& o) { o.lp_norm = 1.5; },
                                          [](HqqOptions& o) { o.beta = 0; }, [](HqqOptions& o) { o.kappa = 0.5; },
                                          [](HqqOptions& o) { o.iters = -1; }}) {
    HqqOptions options;
    spoil(options);
    CHECK_THROWS_AS(make_hqq(options), Error);
  }
  HqqOptions slow;
  slow.kappa = 0.5;
  try {
    make_hqq(slow);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()) == "kappa must be from 1 to 10, not 0.5");
  }
}
