// Codes of NF4 and FP4 against their definition, one weight at a time in float64, and searched scales.
#include <cmath>

#include "quant/codebook.h"
#include "quant/error.h"
#include "quant/scale_codes.h"
#include "rtn/reference.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantArgs fixed(Codebook codebook, Strategy strategy, std::int64_t group = 0) {
  QuantArgs args = make_args(NumberType::codebook, 4, true, strategy, group);
  args.codebook = codebook;
  return args;
}

}  // namespace

TEST_CASE("every weight goes to the nearest value of its block") {
  const Weights weights = sample_weights(7, 90, DType::F32);
  for (const Codebook codebook : {Codebook::nf4, Codebook::fp4}) {
    for (const Strategy strategy :
         {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block, Strategy::flat}) {
      const bool grouped = strategy == Strategy::group || strategy == Strategy::flat;
      const QuantizedTensor q = codebook_quantize(weights.view(), fixed(codebook, strategy, grouped ? 32 : 0));
      std::vector<float> row(90);
      std::size_t wrong = 0;
      for (std::uint64_t r = 0; r < 7; ++r) {
        dequantize_row(q, r, row);
        for (std::uint64_t c = 0; c < 90; ++c) {
          const std::uint64_t unit =
              q.grid.flat != 0 ? (r * 90 + c) / 32 : r / q.grid.row_extent * q.grid.cols + c / q.grid.col_extent;
          const double scale = static_cast<double>(q.scales[unit]), w = static_cast<double>(weights.at(r, c));
          double nearest = 1e300;
          for (const float entry : fixed_codebook(codebook)) {
            nearest = std::min(nearest, std::fabs(w - static_cast<double>(entry) * scale));
          }
          wrong += std::fabs(w - static_cast<double>(row[c])) > nearest + 1e-6 * scale ? 1 : 0;
        }
      }
      INFO(describe(q.args));
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("the golden block: 16 weights of which the largest is 1.5") {
  std::vector<float> weights;
  for (int i = 0; i < 16; ++i) weights.push_back(-1.5F + 0.2F * static_cast<float>(i));
  const auto q = codebook_quantize(f32_view(weights, 1, 16), fixed(Codebook::nf4, Strategy::group, 16));
  CHECK(q.scales == std::vector<float>{1.5F});
  CHECK(q.codes == std::vector<std::int8_t>{0, 0, 1, 2, 2, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 15});
}

TEST_CASE("a searched scale is never worse, with and without importance") {
  const Weights weights = sample_weights(12, 128, DType::F32, 4);
  std::vector<float> importance(128);
  for (std::size_t c = 0; c < 128; ++c) importance[c] = static_cast<float>(1 + (c * 7) % 13);
  for (const std::vector<float>& weighting : {std::vector<float>{}, importance}) {
    QuantArgs args = fixed(Codebook::nf4, Strategy::group, 64);
    const double plain = total_error(weights, codebook_quantize(weights.view(), args, weighting), 2, weighting);
    args.observer = "mse";
    const double searched = total_error(weights, codebook_quantize(weights.view(), args, weighting), 2, weighting);
    CHECK(searched < 0.98 * plain);
  }
}

TEST_CASE("what a tensor shares follows from all its weights, on any number of threads") {
  const Weights weights = sample_weights(1000, 700, DType::BF16, 5);
  std::vector<float> importance(700);
  for (std::size_t c = 0; c < 700; ++c) importance[c] = static_cast<float>(c % 13);
  const auto quantizer = make_codebook();
  for (const bool search : {false, true}) {
    QuantArgs whole = fixed(Codebook::nf4, Strategy::tensor), nested = fixed(Codebook::nf4, Strategy::flat, 64);
    nested.double_quant = true;
    if (search) whole.observer = nested.observer = "mse";
    const auto one = quantizer->prepare(weights.view(), whole, importance, 1);
    CHECK(*quantizer->prepare(weights.view(), whole, importance, 4).scale == *one.scale);
    const float largest = *std::max_element(weights.values.begin(), weights.values.end(),
                                            [](float a, float b) { return std::fabs(a) < std::fabs(b); });
    if (!search) CHECK(*one.scale == std::fabs(largest));
    const auto error_with = [&](float scale) {
      QuantizedTensor q;
      TensorParams params;
      params.scale = scale;
      quantizer->quantize_rows(weights.view(), whole, DType::F32, params, importance, q, {});
      return total_error(weights, q, 2, importance);
    };
    // The best of the parts of the largest magnitude is no better.
    for (float part = 0.6F; search && part < 1.2F; part += 0.025F) {
      CHECK(error_with(*one.scale) <= error_with(part * std::fabs(largest)) * (1 + 1e-9));
    }
    QuantArgs plain = nested;
    plain.double_quant = false;
    QuantizedTensor blocks;
    quantizer->quantize_rows(weights.view(), plain, DType::F32, {}, importance, blocks, {});
    double sum = 0;
    for (const float scale : blocks.scales) sum += static_cast<double>(scale);
    const auto offset = quantizer->prepare(weights.view(), nested, importance, 1).scale_offset;
    CHECK(*offset == Approx(sum / static_cast<double>(blocks.scales.size())).epsilon(1e-6));
    CHECK(*quantizer->prepare(weights.view(), nested, importance, 3).scale_offset == *offset);
  }
}

TEST_CASE("coded scales are within half a step of the map") {
  const auto map = dynamic_scale_map();
  REQUIRE(map.size() == 256);
  CHECK(map.front() == Approx(-0.9929687F).epsilon(1e-6));
  CHECK(map.back() == 1.0F);
  CHECK(map[127] == 0.0F);
  CHECK(std::is_sorted(map.begin(), map.end()));
  std::vector<float> scales;
  for (int i = 0; i < 700; ++i) scales.push_back(0.1F + 0.05F * std::sin(static_cast<float>(i)));
  CodedScales coded;
  code_scales(scales, 0.1F, coded);
  REQUIRE((coded.codes.size() == 700 && coded.scales.size() == 3));
  for (std::size_t i = 0; i < 700; ++i) {
    const float decoded = map[coded.codes[i]] * coded.scales[i / 256] + coded.offset;
    CHECK(std::fabs(decoded - scales[i]) <= 0.008F * coded.scales[i / 256]);
  }
}

TEST_CASE("wrong use is refused") {
  const Weights weights = sample_weights(2, 32, DType::F32);
  CHECK_THROWS_AS(codebook_quantize(weights.view(), make_args(NumberType::codebook, 4, true, Strategy::channel)),
                  Error);
  const std::vector<float> importance(5, 1.0F);
  CHECK_THROWS_AS(codebook_quantize(weights.view(), fixed(Codebook::nf4, Strategy::channel), importance), Error);
}

TEST_CASE("observers and importance that would not be used are refused with what would be") {
  const QuantArgs plain = fixed(Codebook::nf4, Strategy::channel);
  const auto reason = [](const QuantArgs& args, bool hessian) {
    return make_codebook({hessian})->unsupported(args).value_or("");
  };
  for (const char* name : {"percentile", "mse_search", "mse_joint", "imatrix_mse", "nvfp4_expanded_mse"}) {
    CHECK(reason(observed(plain, name), false).find(name) != std::string::npos);
  }
  for (const char* name : {"mse", "memoryless_mse"}) {
    CHECK(reason(observed(plain, name), false).empty());
    CHECK(reason(observed(plain, name), true).empty());
    QuantArgs args = observed(plain, name);
    args.observer_kwargs["grid"] = std::int64_t{50};
    CHECK(reason(args, false).find("observer_kwargs.grid") != std::string::npos);
  }
  for (const char* name : {"minmax", "memoryless_minmax", "static_minmax"}) {
    CHECK(reason(observed(plain, name), false).empty());
    CHECK(reason(observed(plain, name), true).find("observer: mse") != std::string::npos);
  }
  CHECK(reason(plain, true).find("observer: mse") != std::string::npos);
  QuantArgs sparse = plain;  // chosen by importance
  sparse.sensitive_percent = 0.1;
  CHECK(reason(sparse, true).empty());
}
