// Ternary weights and signs against their definition in float64, and the exact keeping of weights that have that form.
#include <cmath>

#include "quant/bitnet.h"
#include "quant/error.h"
#include "quant/rtn.h"
#include "rtn/reference.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs ternary(Strategy strategy, std::int64_t group = 0) {
  return with(make_args(NumberType::integer, 2, true, strategy, group), "symmetric_range", std::string("restricted"));
}
QuantArgs signs(Strategy strategy, std::int64_t group = 0) {
  QuantArgs args = make_args(NumberType::codebook, 1, true, strategy, group);
  args.codebook = Codebook::sign;
  return args;
}

double mean_magnitude(const Weights& weights, const ScaleGrid& grid, std::uint64_t unit) {
  double sum = 0, count = 0;
  for (std::uint64_t r = 0; r < weights.rows; ++r) {
    for (std::uint64_t c = 0; c < weights.cols; ++c) {
      if (r / grid.row_extent * grid.cols + c / grid.col_extent != unit) continue;
      sum += std::fabs(static_cast<double>(weights.at(r, c)));
      count += 1;
    }
  }
  return sum / count;
}

Weights ternary_weights(std::uint64_t rows, std::uint64_t cols, DType type, float size) {
  std::vector<float> values(rows * cols);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(static_cast<int>(i * 2654435761U >> 7 & 1023) % 3 - 1) * size;
  }
  return stored(std::move(values), rows, cols, type);
}

}  // namespace

TEST_CASE("scales are mean magnitudes and codes the nearest of them, for every strategy") {
  const Weights weights = sample_weights(9, 70, DType::F32);
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    for (const bool one_bit : {false, true}) {
      const std::int64_t group = strategy == Strategy::group ? 32 : 0;
      const QuantArgs args = one_bit ? signs(strategy, group) : ternary(strategy, group);
      const QuantizedTensor q = bitnet_quantize(weights.view(), args);
      INFO(describe(args));
      REQUIRE(q.scales.size() == q.grid.count());
      std::size_t wrong = 0;
      for (std::uint64_t r = 0; r < 9; ++r) {
        for (std::uint64_t c = 0; c < 70; ++c) {
          const std::uint64_t unit = r / q.grid.row_extent * q.grid.cols + c / q.grid.col_extent;
          const double mean = mean_magnitude(weights, q.grid, unit), w = static_cast<double>(weights.at(r, c));
          const bool zeros_only = mean == 0, constant = strategy != Strategy::tensor && r == 4;
          if (!zeros_only && !constant) {
            wrong += std::fabs(static_cast<double>(q.scales[unit]) - mean) > 1e-6 * mean ? 1 : 0;
          }
          const int code = q.codes[r * 70 + c];
          const double near = zeros_only ? 0 : std::nearbyint(w / static_cast<double>(q.scales[unit]));
          const int wanted = one_bit ? (w < 0 ? 0 : 1) : static_cast<int>(std::clamp(near, -1.0, 1.0));
          wrong += code != wanted ? 1 : 0;
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("weights that are ternary or signs already are kept exactly") {
  for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
    // The smallest ones: 2^-24, and numbers between those of F16 that have all 11 bits.
    for (const float size : {0.0371F, 5e-5F, 1e-6F, 0x1p-24F}) {
      const Weights weights = ternary_weights(6, 60, type, round_to_dtype(DType::F16, size));
      for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group}) {
        QuantArgs args = ternary(strategy, strategy == Strategy::group ? 20 : 0);
        args.scale_dtype = type;
        const QuantizedTensor q = bitnet_quantize(weights.view(), args);
        INFO("size " << size << ", type " << dtype_name(type));
        CHECK(total_error(weights, q, 2) == 0);
      }
    }
  }
  std::vector<float> values;
  for (int i = 0; i < 90; ++i) values.push_back(i % 7 < 3 ? -0.25F : 0.25F);
  const Weights both = stored(values, 3, 30, DType::F32);
  CHECK(total_error(both, bitnet_quantize(both.view(), signs(Strategy::channel)), 2) == 0);
  values[40] = 0;  // signs cannot say 0, so that the row gets its mean
  const Weights zero = stored(values, 3, 30, DType::F32);
  const QuantizedTensor q = bitnet_quantize(zero.view(), signs(Strategy::channel));
  CHECK(q.scales[0] == 0.25F);
  CHECK(q.scales[1] == Approx(0.25F * 29 / 30));
  CHECK(total_error(zero, bitnet_quantize(zero.view(), ternary(Strategy::tensor)), 2) == 0);
}

TEST_CASE("the worked example: eight weights of mean magnitude 0.5") {
  const std::vector<float> w = {1.0F, -0.75F, 0.25F, -0.25F, 0.0F, 0.75F, -1.0F, 0.0F};
  const QuantizedTensor q = bitnet_quantize(f32_view(w, 1, 8), ternary(Strategy::tensor));
  CHECK(q.scales == std::vector<float>{0.5F});
  CHECK(q.codes == std::vector<std::int8_t>{1, -1, 0, 0, 0, 1, -1, 0});  // 0.25 / 0.5 is a tie, to 0
}

TEST_CASE("a searched ternary scale has less error, which is what QuantizationModifier is for") {
  const Weights weights = sample_weights(16, 256, DType::F32, 8);
  const QuantArgs args = ternary(Strategy::group, 64);
  const double mean = total_error(weights, bitnet_quantize(weights.view(), args), 2);
  const double searched = total_error(weights, rtn_quantize(weights.view(), observed(args, "mse_search")), 2);
  CHECK(searched < mean);
  CHECK(searched > 0.1 * mean);
}

TEST_CASE("importance weighs the mean, per column and per weight") {
  const std::vector<float> w = {1.0F, 3.0F, 2.0F, 2.5F};
  CHECK(bitnet_quantize(f32_view(w, 1, 4), signs(Strategy::channel), std::vector<float>{1, 1, 0, 0}).scales[0] == 2.0F);
  const std::vector<float> each = {1, 0, 0, 3};
  const auto q = bitnet_quantize(f32_view(w, 2, 2), signs(Strategy::channel), each);
  CHECK(q.scales == std::vector<float>{1.0F, 2.5F});
}

TEST_CASE("a unit whose importances are all 0 gets the plain mean") {
  const std::vector<float> w = {1.0F, 3.0F, 2.0F, 2.5F};
  const auto q = bitnet_quantize(f32_view(w, 2, 2), signs(Strategy::channel), std::vector<float>{0, 0, 1, 0});
  CHECK(q.scales == std::vector<float>{2.0F, 2.0F});
  const std::vector<float> zeros(4);
  CHECK(bitnet_quantize(f32_view(w, 2, 2), ternary(Strategy::tensor), zeros).scales == std::vector<float>{2.125F});
}

TEST_CASE("the scale of a whole tensor does not depend on the number of threads") {
  for (const bool ready : {false, true}) {
    const Weights weights =
        ready ? ternary_weights(900, 700, DType::F16, 0.25F) : sample_weights(900, 700, DType::BF16);
    std::vector<float> importance(700);
    for (std::size_t c = 0; c < 700; ++c) importance[c] = static_cast<float>(c % 9);
    const auto quantizer = make_bitnet();
    const auto one = quantizer->prepare(weights.view(), ternary(Strategy::tensor), importance, 1);
    const auto four = quantizer->prepare(weights.view(), ternary(Strategy::tensor), importance, 4);
    CHECK(*one.scale == *four.scale);
    double sum = 0, count = 0;
    for (std::size_t i = 0; i < weights.values.size(); ++i) {
      sum += static_cast<double>(importance[i % 700]) * std::fabs(static_cast<double>(weights.at(i / 700, i % 700)));
      count += static_cast<double>(importance[i % 700]);
    }
    CHECK(*one.scale == Approx(ready ? 0.25 : sum / count).epsilon(1e-6));
  }
}

TEST_CASE("wrong use is refused") {
  const Weights weights = sample_weights(2, 32, DType::F32);
  CHECK_THROWS_AS(bitnet_quantize(weights.view(), make_args(NumberType::integer, 2, true, Strategy::channel)), Error);
  CHECK_THROWS_AS(bitnet_quantize(weights.view(), observed(ternary(Strategy::channel), "mse")), Error);
  CHECK_THROWS_AS(bitnet_quantize(weights.view(), signs(Strategy::flat, 32)), Error);
  CHECK_THROWS_AS(bitnet_quantize(weights.view(), signs(Strategy::channel), std::vector<float>(5, 1.0F)), Error);
  QuantArgs wide = signs(Strategy::channel);
  wide.num_bits = 2;
  CHECK_THROWS_AS(bitnet_quantize(weights.view(), wide), Error);
}
