// Observers: what they promise about errors, and their definitions by brute force.
#include <algorithm>
#include <cmath>

#include "quant/rtn.h"
#include "rtn/reference.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

std::vector<QuantArgs> searched_schemes() {
  const auto integer = NumberType::integer, floating = NumberType::floating;
  return {make_args(integer, 2, true, Strategy::group, 32),
          make_args(integer, 3, false, Strategy::group, 32),
          make_args(integer, 4, true, Strategy::group, 128),
          make_args(integer, 4, false, Strategy::group, 128),
          make_args(integer, 8, true, Strategy::channel),
          make_args(integer, 4, true, Strategy::tensor),
          make_args(integer, 4, false, Strategy::tensor),
          make_args(integer, 4, true, Strategy::block),
          make_args(integer, 1, false, Strategy::group, 32),
          with(make_args(integer, 4, true, Strategy::group, 32), "symmetric_range", std::string("full")),
          with(make_args(integer, 4, true, Strategy::group, 32), "symmetric_range", std::string("restricted")),
          make_args(floating, 8, true, Strategy::channel),
          make_args(floating, 8, true, Strategy::block),
          nvfp4(),
          mx(4),
          mx(8)};
}

double error_with(const Weights& weights, const QuantArgs& scheme, const std::string& observer, double norm,
                  const std::vector<float>& importance = {}) {
  const QuantizedTensor q = rtn_quantize(weights.view(), with(observed(scheme, observer), "norm", norm), importance);
  return total_error(weights, q, norm, importance);
}

}  // namespace

TEST_CASE("mse is never worse than min-max, mse_search never worse than mse, in the same norm") {
  for (const DType type : {DType::F32, DType::F16}) {
    for (const unsigned seed : {1U, 2U}) {
      const Weights weights = sample_weights(12, 256, type, seed);
      for (const QuantArgs& scheme : searched_schemes()) {
        for (const double norm : {2.0, 2.4}) {
          const double minmax = total_error(weights, rtn_quantize(weights.view(), scheme), norm);
          const double mse = error_with(weights, scheme, "mse", norm),
                       best = error_with(weights, scheme, "mse_search", norm);
          INFO(describe(scheme) << " norm " << norm << ": minmax " << minmax << " mse " << mse << " mse_search "
                                << best);
          CHECK(mse <= minmax * (1 + 1e-5));
          CHECK(best <= mse * (1 + 1e-5));
        }
      }
    }
  }
}

TEST_CASE("the same holds for weighted errors") {
  const Weights weights = sample_weights(8, 128, DType::F16);
  std::vector<float> importance(128);
  for (std::size_t c = 0; c < 128; ++c) importance[c] = c % 16 == 3 ? 50.0F : 0.1F;
  for (const QuantArgs& scheme : searched_schemes()) {
    const double plain = total_error(weights, rtn_quantize(weights.view(), scheme), 2, importance);
    const double unaware = total_error(
        weights, rtn_quantize(weights.view(), with(observed(scheme, "mse_search"), "norm", 2.0)), 2, importance);
    const double mse = error_with(weights, scheme, "mse", 2, importance),
                 best = error_with(weights, scheme, "mse_search", 2, importance);
    INFO(describe(scheme) << ": minmax " << plain << " mse " << mse << " mse_search " << best << " without importance "
                          << unaware);
    CHECK(mse <= plain * (1 + 1e-5));
    CHECK(best <= mse * (1 + 1e-5));
    CHECK(best <= unaware * 1.02);  // both searches stop short of the very optimum
  }
}

TEST_CASE("mse finds the least error of its grid, as brute force in float64 does") {
  const Weights weights = sample_weights(10, 64, DType::F32, 5);
  for (const bool symmetric : {true, false}) {
    const QuantArgs args = observed(make_args(NumberType::integer, 4, symmetric, Strategy::group, 32), "mse");
    const QuantizedTensor got = rtn_quantize(weights.view(), args);
    for (std::uint64_t r = 0; r < 10; ++r) {
      for (std::uint64_t g = 0; g < 2; ++g) {
        const float* w = weights.values.data() + r * 64 + g * 32;
        const auto [low, high] = std::minmax_element(w, w + 32);
        double best = 1e300, ours = 0;
        for (int i = 0; i < 20; ++i) {
          const auto p = static_cast<float>(1 - i / 100.0);
          float scale = 0;
          int zero = 0;
          reference_scale(args, DType::F32, *low * p, *high * p, 1, scale, zero);
          double error = 0, chosen = 0;
          for (int k = 0; k < 32; ++k) {
            const double v = static_cast<double>(reference_code(args, w[k], scale, zero) - zero) * scale;
            error += std::pow(std::fabs(w[k] - v), 2.4);
          }
          best = std::min(best, error);
          for (int k = 0; k < 32; ++k) {
            const std::size_t at = r * 2 + g;
            const int z = symmetric ? 0 : got.zero_points[at];
            const double v =
                static_cast<double>(got.codes[r * 64 + g * 32 + static_cast<std::size_t>(k)] - z) * got.scales[at];
            chosen += std::pow(std::fabs(w[k] - v), 2.4);
          }
          ours = chosen;
        }
        CHECK(ours <= best * (1 + 1e-5) + 1e-30);
        CHECK(ours >= best * (1 - 1e-5));
      }
    }
  }
}

TEST_CASE("percentile takes the value of nearest rank, per group and over the whole tensor") {
  Weights weights = sample_weights(16, 200, DType::F16, 8);
  const auto quantile = [](std::vector<float> values, double q) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size()))) - 1];
  };
  for (const double q : {0.5, 0.9, 0.99, 1.0}) {
    for (const Strategy strategy : {Strategy::channel, Strategy::tensor}) {
      const QuantArgs sym =
          with(observed(make_args(NumberType::integer, 4, true, strategy), "percentile"), "percentile", q);
      const QuantArgs asym =
          with(observed(make_args(NumberType::integer, 4, false, strategy), "percentile"), "percentile", q);
      const QuantizedTensor a = rtn_quantize(weights.view(), sym), b = rtn_quantize(weights.view(), asym);
      for (std::size_t s = 0; s < a.scales.size(); ++s) {
        const auto first = weights.values.begin() + static_cast<std::ptrdiff_t>(s * 200);
        const std::vector<float> values =
            strategy == Strategy::tensor ? weights.values : std::vector<float>(first, first + 200);
        std::vector<float> sizes, negated;
        for (const float w : values) {
          sizes.push_back(std::fabs(w));
          negated.push_back(-w);
        }
        float scale = 0;
        int zero = 0;
        reference_scale(sym, DType::F16, 0, quantile(sizes, q), 1, scale, zero);
        CHECK(a.scales[s] == scale);
        reference_scale(asym, DType::F16, -quantile(negated, q), quantile(values, q), 1, scale, zero);
        CHECK(b.scales[s] == scale);
        CHECK(b.zero_points[s] == zero);
      }
    }
  }
}

TEST_CASE("names that mean the same give the same") {
  const Weights weights = sample_weights(6, 64, DType::F32);
  const QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::group, 32);
  const QuantizedTensor plain = rtn_quantize(weights.view(), args);
  for (const char* name : {"minmax", "memoryless_minmax", "static_minmax"})
    CHECK(same_result(rtn_quantize(weights.view(), observed(args, name)), plain));
  CHECK(same_result(rtn_quantize(weights.view(), observed(args, "mse")),
                    rtn_quantize(weights.view(), observed(args, "memoryless_mse"))));
  CHECK(!same_result(rtn_quantize(weights.view(), observed(args, "mse")), plain));
  const std::vector<float> ones(64, 1.0F);
  CHECK(same_result(rtn_quantize(weights.view(), observed(args, "imatrix_mse")),
                    rtn_quantize(weights.view(), observed(args, "imatrix_mse"), ones)));
}

TEST_CASE("a tensor of one row is searched like a channel") {
  const Weights weights = sample_weights(1, 300, DType::F32);
  for (const char* observer : {"minmax", "percentile", "mse", "mse_search"}) {
    for (const bool symmetric : {true, false}) {
      const QuantizedTensor a = rtn_quantize(
          weights.view(), observed(make_args(NumberType::integer, 4, symmetric, Strategy::tensor), observer));
      const QuantizedTensor b = rtn_quantize(
          weights.view(), observed(make_args(NumberType::integer, 4, symmetric, Strategy::channel), observer));
      CHECK((a.codes == b.codes && a.scales == b.scales && a.zero_points == b.zero_points));
    }
  }
}

TEST_CASE("groups too small or too large to search keep their range") {
  for (const float size : {1e-35F, 1e33F}) {
    Weights weights = sample_weights(4, 32, DType::F32);
    for (float& w : weights.values) w *= size;
    const QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::channel);
    CHECK(same_result(rtn_quantize(weights.view(), observed(args, "mse")), rtn_quantize(weights.view(), args)));
  }
}

TEST_CASE("NVFP4 search uses block scales above the plain one where that is better: four over six") {
  // 16 values on the grid of 4: mapping the largest to 4 is exact, mapping it to 6 is not.
  std::vector<float> values(64);
  const float grid[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, -4, -3, -2, -1.5F, -1, -0.5F, 0, 4, 4};
  for (std::size_t i = 0; i < 64; ++i) values[i] = grid[i % 16] * (i < 16 ? 6.0F / 4.0F : 0.5F);
  const QuantizedTensor plain = rtn_quantize(f32_view(values, 1, 64), nvfp4());
  const QuantizedTensor best = rtn_quantize(f32_view(values, 1, 64), observed(nvfp4(), "mse_search"));
  const Weights weights = stored(values, 1, 64, DType::F32);
  std::vector<float> row(64);
  dequantize_row(best, 0, row);
  for (std::size_t g = 1; g < 4; ++g) CHECK(best.scales[g] > plain.scales[g]);
  for (std::size_t i = 16; i < 64; ++i) CHECK(row[i] == values[i]);
}

TEST_CASE("mean squared errors of the mse observer on a ramp equal llm-compressor's published ones") {
  std::vector<float> values(24);
  for (std::size_t i = 0; i < 24; ++i) values[i] = static_cast<float>(i) / 24.0F;
  const Weights ramp = stored(values, 6, 4, DType::F32);
  const auto loss = [&](bool symmetric, Strategy strategy) {
    QuantArgs args =
        observed(make_args(NumberType::integer, 8, symmetric, strategy, strategy == Strategy::group ? 2 : 0), "mse");
    if (strategy == Strategy::block) args.block_structure = {3, 2};
    return total_error(ramp, rtn_quantize(ramp.view(), args), 2) / 24;
  };
  CHECK(loss(true, Strategy::tensor) == Approx(4.8103e-06).margin(1e-10));
  CHECK(loss(false, Strategy::tensor) == Approx(1.1258e-06).margin(1e-10));
  CHECK(loss(true, Strategy::channel) == Approx(2.5675e-06).margin(1e-10));
  CHECK(loss(false, Strategy::channel) == Approx(2.3696e-07).margin(1e-10));
  CHECK(loss(true, Strategy::group) == Approx(3.1282e-06).margin(1e-10));
  CHECK(loss(false, Strategy::group) == Approx(1.3794e-07).margin(1e-10));
  CHECK(loss(true, Strategy::block) == Approx(2.8968e-06).margin(1e-10));
  CHECK(loss(false, Strategy::block) == Approx(5.6068e-07).margin(1e-10));
}
