// Laws that hold for any weights: independence of slices and threads, invariance, properties of the conventions.
#include <omp.h>

#include <cmath>

#include "quant/rtn.h"
#include "rtn/reference.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

const char* const kObservers[] = {"minmax", "percentile", "mse", "mse_search", "imatrix_mse"};

DType scale_type(const QuantArgs& args, DType weight) {
  return is_mx(args) ? DType::U8 : args.scale_dtype.value_or(weight);
}

// Quantizes in slices of `step` rows and puts the pieces together.
QuantizedTensor by_slices(const Weights& weights, const QuantArgs& args, std::uint64_t step, int threads) {
  const auto rtn = make_rtn();
  const TensorParams params = rtn->prepare(weights.view(), args, {}, threads);
  QuantizedTensor all, part;
  all.resize(args, weights.rows, weights.cols);
  all.scales.clear();
  all.zero_points.clear();
  all.codes.clear();
  for (std::uint64_t first = 0; first < weights.rows; first += step) {
    const std::uint64_t count = std::min(step, weights.rows - first);
    rtn->quantize_rows(weights.view().slice_rows(first, count), args, scale_type(args, weights.type), params, {}, part,
                       {});
    all.codes.insert(all.codes.end(), part.codes.begin(), part.codes.end());
    if (args.strategy == Strategy::tensor && first > 0) continue;
    all.scales.insert(all.scales.end(), part.scales.begin(), part.scales.end());
    all.zero_points.insert(all.zero_points.end(), part.zero_points.begin(), part.zero_points.end());
  }
  all.global_scale = part.global_scale;
  all.scale_dtype = part.scale_dtype;
  return all;
}

std::vector<float> dequantize(const QuantizedTensor& q) {
  std::vector<float> values(q.rows * q.cols);
  for (std::uint64_t r = 0; r < q.rows; ++r) dequantize_row(q, r, std::span(values).subspan(r * q.cols, q.cols));
  return values;
}

}  // namespace

TEST_CASE("slice by slice equals the whole, for every scheme and observer") {
  const Weights weights = sample_weights(14, 100, DType::BF16);
  for (const QuantArgs& scheme : all_schemes()) {
    for (const char* observer : kObservers) {
      const QuantArgs args = observed(scheme, observer);
      INFO(describe(args) << " " << observer);
      const QuantizedTensor whole = rtn_quantize(weights.view(), args);
      CHECK(same_result(by_slices(weights, args, 3, 1), whole));
      CHECK(same_result(by_slices(weights, args, 6, 2), whole));
    }
  }
}

TEST_CASE("the number of threads does not change the result") {
  const Weights weights = sample_weights(601, 999, DType::F16);  // several pieces of 2^18 weights
  const int before = omp_get_max_threads();
  for (const QuantArgs& scheme : {make_args(NumberType::integer, 4, true, Strategy::tensor),
                                  make_args(NumberType::integer, 8, false, Strategy::tensor),
                                  make_args(NumberType::floating, 8, true, Strategy::tensor),
                                  make_args(NumberType::integer, 4, true, Strategy::group, 64),
                                  make_args(NumberType::integer, 4, false, Strategy::block), nvfp4()}) {
    for (const char* observer : {"minmax", "percentile", "mse"}) {
      INFO(describe(scheme) << " " << observer);
      omp_set_num_threads(1);
      const QuantizedTensor one = rtn_quantize(weights.view(), observed(scheme, observer));
      omp_set_num_threads(5);
      CHECK(same_result(rtn_quantize(weights.view(), observed(scheme, observer)), one));
    }
  }
  omp_set_num_threads(before);
}

TEST_CASE("scaling weights by a power of two scales the scales and keeps the codes") {
  const Weights weights = sample_weights(6, 96, DType::F32);
  Weights scaled = weights;
  for (float& w : scaled.values) w *= 0x1p-20F;
  for (const QuantArgs& scheme : all_schemes()) {
    for (const char* observer : kObservers) {
      const QuantizedTensor a = rtn_quantize(weights.view(), observed(scheme, observer));
      const QuantizedTensor b = rtn_quantize(scaled.view(), observed(scheme, observer));
      INFO(describe(scheme) << " " << observer);
      CHECK(a.codes == b.codes);
      std::vector<float> values = dequantize(a);
      for (float& v : values) v *= 0x1p-20F;
      CHECK(values == dequantize(b));
    }
  }
}

TEST_CASE("restricted codes are symmetric: the negative of the weights has the negative codes") {
  const Weights weights = sample_weights(6, 64, DType::F32);
  Weights negative = weights;
  for (float& w : negative.values) w = -w;
  for (int bits = 2; bits <= 8; ++bits) {
    const QuantArgs args = with(make_args(NumberType::integer, bits, true, Strategy::group, 16), "symmetric_range",
                                std::string("restricted"));
    const QuantizedTensor a = rtn_quantize(weights.view(), args), b = rtn_quantize(negative.view(), args);
    CHECK(a.scales == b.scales);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < a.codes.size(); ++i)
      wrong += a.codes[i] != -b.codes[i] || a.codes[i] == code_min(args) - 1 ? 1 : 0;
    CHECK(wrong == 0);
  }
}

TEST_CASE("the full range meets the largest magnitude exactly and uses the lowest code for it") {
  const Weights weights = sample_weights(8, 64, DType::F32);
  for (int bits = 1; bits <= 8; ++bits) {
    const QuantArgs args =
        with(make_args(NumberType::integer, bits, true, Strategy::channel), "symmetric_range", std::string("full"));
    const QuantizedTensor got = rtn_quantize(weights.view(), args);
    const std::vector<float> values = dequantize(got);
    for (std::uint64_t r = 0; r < 8; ++r) {
      std::uint64_t largest = 0;
      for (std::uint64_t c = 0; c < 64; ++c)
        largest = std::fabs(weights.at(r, c)) > std::fabs(weights.at(r, largest)) ? c : largest;
      if (weights.at(r, largest) == 0) continue;
      CHECK(got.codes[r * 64 + largest] == code_min(args));
      CHECK(values[r * 64 + largest] == Approx(weights.at(r, largest)).epsilon(1e-6));
      CHECK((got.scales[r] < 0) == (weights.at(r, largest) > 0));
    }
  }
}

TEST_CASE("the error of min-max codes is at most half a step, clipping of the last half step included") {
  const Weights weights = sample_weights(8, 64, DType::F32);
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      const QuantizedTensor got =
          rtn_quantize(weights.view(), make_args(NumberType::integer, bits, symmetric, Strategy::channel));
      const std::vector<float> values = dequantize(got);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        // Rounding the zero point may clip up to another half step.
        const float limit = std::fabs(got.scales[i / 64]) * (symmetric ? 0.5F : 1.0F) * 1.0001F;
        wrong += std::fabs(values[i] - weights.values[i]) > limit ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("quantizing a dequantized result again changes nothing where the scale reproduces itself") {
  const Weights weights = sample_weights(8, 64, DType::F32);
  for (const QuantArgs& args :
       {with(make_args(NumberType::integer, 4, true, Strategy::channel), "symmetric_range", std::string("full")), mx(4),
        mx(8), make_args(NumberType::floating, 8, true, Strategy::channel)}) {
    INFO(describe(args));
    const QuantizedTensor first = rtn_quantize(weights.view(), args);
    const std::vector<float> values = dequantize(first);
    const QuantizedTensor second = rtn_quantize(f32_view(values, 8, 64), args);
    std::size_t wrong = 0;
    const std::vector<float> again = dequantize(second);
    for (std::size_t i = 0; i < values.size(); ++i)
      wrong += std::fabs(again[i] - values[i]) > 1e-6F * std::fabs(values[i]) ? 1 : 0;
    CHECK(wrong == 0);
  }
}

TEST_CASE("scales are values of the type that they are stored in") {
  const Weights weights = sample_weights(8, 64, DType::BF16);
  for (const QuantArgs& scheme : all_schemes()) {
    for (const char* observer : kObservers) {
      const QuantizedTensor got = rtn_quantize(weights.view(), observed(scheme, observer));
      INFO(describe(scheme) << " " << observer);
      std::size_t wrong = 0;
      for (const float scale : got.scales) {
        int exponent = 0;
        if (is_mx(scheme))
          wrong += std::frexp(scale, &exponent) != 0.5F ? 1 : 0;
        else
          wrong += round_to_dtype(got.scale_dtype, scale) != scale || scale == 0 ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
}
