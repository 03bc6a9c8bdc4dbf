// Min-max round to nearest: every scheme against plain definitions, special weights, wrong usage.
#include <cmath>
#include <functional>
#include <limits>

#include "quant/error.h"
#include "quant/metrics.h"
#include "quant/rtn.h"
#include "rtn/reference.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

DType scale_type(const QuantArgs& args, DType weight) {
  if (is_mx(args)) return DType::U8;
  return args.scale_dtype.value_or(weight);
}

Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error");
  return {ErrorCode::internal, ""};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("every scheme, weight type and shape gives what the definitions say") {
  const std::pair<std::uint64_t, std::uint64_t> shapes[] = {{1, 1}, {7, 1}, {1, 48}, {8, 50}, {11, 129}, {6, 256}};
  for (const QuantArgs& args : all_schemes()) {
    for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
      for (const auto& [rows, cols] : shapes) {
        const Weights weights = sample_weights(rows, cols, type);
        const QuantizedTensor expected = reference_quantize(weights, args, scale_type(args, type));
        const QuantizedTensor got = rtn_quantize(weights.view(), args);
        INFO(describe(args) << " " << dtype_name(type) << " " << rows << "x" << cols);
        CHECK(got.scales == expected.scales);
        CHECK(got.zero_points == expected.zero_points);
        CHECK(got.codes == expected.codes);
        CHECK(got.global_scale == expected.global_scale);
      }
    }
  }
}

TEST_CASE("errors measured while coding equal those measured afterwards") {
  const auto rtn = make_rtn();
  for (const QuantArgs& args : all_schemes()) {
    for (const DType type : {DType::F32, DType::F16}) {
      INFO(describe(args) << " " << dtype_name(type));
      const Weights weights = sample_weights(9, 70, type);
      QuantizedTensor out;
      std::vector<ErrorSums> during(9), after(9);
      std::vector<double> signal(70, 0.0), noise(70, 0.0), signal_after(70, 0.0), noise_after(70, 0.0);
      const TensorParams params = rtn->prepare(weights.view(), args, {}, 1);
      rtn->quantize_rows(weights.view(), args, scale_type(args, type), params, {}, out, {during, signal, noise});
      measure_rows(weights.view(), out, {after, signal_after, noise_after});
      for (std::size_t r = 0; r < 9; ++r) {
        CHECK(during[r].count == 70);
        CHECK(during[r].signal == after[r].signal);
        CHECK(during[r].noise == after[r].noise);
        CHECK(during[r].recon == after[r].recon);
        CHECK(during[r].dot == Approx(after[r].dot).epsilon(2e-6).margin(1e-12));
        CHECK(during[r].max_abs_error == after[r].max_abs_error);
        CHECK(during[r].clipped == after[r].clipped);
        CHECK(during[r].zeros == after[r].zeros);
      }
      CHECK(signal == signal_after);
      CHECK(noise == noise_after);
    }
  }
}

TEST_CASE("groups of zeros get the type's epsilon as scale, and codes of value 0") {
  const Weights zeros = stored(std::vector<float>(64, 0.0F), 2, 32, DType::F16);
  for (const QuantArgs& args : all_schemes()) {
    INFO(describe(args));
    const QuantizedTensor got = rtn_quantize(zeros.view(), args);
    for (const float scale : got.scales) {
      CHECK(scale == (is_mx(args) ? 0x1p-127F : is_nvfp4(args) ? 0.125F : 0x1p-10F));
    }
    std::vector<float> row(32, 1.0F);
    dequantize_row(got, 1, row);
    CHECK(row == std::vector<float>(32, 0.0F));
  }
}

TEST_CASE("a constant group is exact where the range ends in it") {
  const Weights fives = stored(std::vector<float>(40, 5.0F), 2, 20, DType::F32);
  for (const QuantArgs& args :
       {make_args(NumberType::integer, 4, false, Strategy::channel),
        make_args(NumberType::floating, 8, true, Strategy::channel),
        with(make_args(NumberType::integer, 4, true, Strategy::channel), "symmetric_range", std::string("full")),
        with(make_args(NumberType::integer, 4, true, Strategy::channel), "symmetric_range",
             std::string("restricted"))}) {
    INFO(describe(args));
    const QuantizedTensor got = rtn_quantize(fives.view(), args);
    std::vector<float> row(20);
    dequantize_row(got, 0, row);
    for (const float v : row) CHECK(v == Approx(5.0F).epsilon(1e-6));
  }
}

TEST_CASE("half-precision scales that underflow or overflow are replaced by the nearest usable ones") {
  // Weights of 2^-24: their scale rounds to zero in F16, becomes epsilon, and all codes mean 0.
  const Weights tiny = stored(std::vector<float>(16, 0x1p-24F), 1, 16, DType::F16);
  const QuantizedTensor small = rtn_quantize(tiny.view(), make_args(NumberType::integer, 8, true, Strategy::channel));
  CHECK(small.scales[0] == 0x1p-10F);
  CHECK(small.codes == std::vector<std::int8_t>(16, 0));
  // A range of 131008 in 2 codes: the scale saturates at 65504.
  const Weights wide = stored({-65504.0F, 65504.0F}, 1, 2, DType::F16);
  const QuantizedTensor large = rtn_quantize(wide.view(), make_args(NumberType::integer, 1, false, Strategy::channel));
  CHECK(large.scales[0] == 65504.0F);
  // The sum of the ends overflows float32.
  const Weights huge = stored({-3e38F, 3e38F}, 1, 2, DType::F32);
  const QuantizedTensor finite = rtn_quantize(huge.view(), make_args(NumberType::integer, 4, false, Strategy::channel));
  CHECK(finite.scales[0] == Approx(4e37F));
}

TEST_CASE("NVFP4 example of two blocks") {
  std::vector<float> values(32);
  for (int i = 0; i < 16; ++i) {
    values[static_cast<std::size_t>(i)] = static_cast<float>(2 * i - 15) / 15.0F;
    values[static_cast<std::size_t>(16 + i)] = 0.23F * values[static_cast<std::size_t>(i)];
  }
  const QuantizedTensor got = rtn_quantize(f32_view(values, 1, 32), nvfp4());
  CHECK(got.global_scale == 2688.0F);
  CHECK(got.scales == std::vector<float>{448.0F, 104.0F});
  const std::vector<std::int8_t> nibbles{15, 15, 14, 14, 13, 12, 10, 9, 1, 2, 4, 5, 6, 6, 7, 7};
  for (std::size_t i = 0; i < 32; ++i) CHECK(got.codes[i] == nibbles[i % 16]);
}

TEST_CASE("MX exponents follow the rule 'even'") {
  const std::pair<float, int> cases[] = {{1.5F, -2}, {1.6F, -2}, {1.75F, -1}, {3.2F, -1}, {4, 0},
                                         {6, 0},     {6.5F, 0},  {7, 1},      {8, 1}};
  for (const auto& [absmax, exponent] : cases) {
    std::vector<float> values(32, 0.0F);
    values[7] = -absmax;
    CHECK(rtn_quantize(f32_view(values, 1, 32), mx(4)).scales[0] == std::ldexp(1.0F, exponent));
    CHECK(rtn_quantize(f32_view(values, 1, 32), mx(8)).scales[0] == std::ldexp(1.0F, exponent - 6));
  }
}

TEST_CASE("NaN and infinity are named by row and column, in every scheme") {
  const auto rtn = make_rtn();
  for (const QuantArgs& args : all_schemes()) {
    INFO(describe(args));
    Weights weights = sample_weights(300, 100, DType::F32);
    weights.values[277 * 100 + 81] = std::numeric_limits<float>::quiet_NaN();
    weights.values[290 * 100 + 3] = std::numeric_limits<float>::infinity();
    const Error whole = error_of([&] { rtn_quantize(weights.view(), args); });
    CHECK(whole.code() == ErrorCode::numerical);
    CHECK(whole.kind() == "NonFiniteWeight");
    CHECK(contains(whole.what(), "row 277, column 81"));
    CHECK(contains(whole.what(), "NaN"));
    TensorParams params;
    params.scale = 1.0F;
    params.zero_point = 0;
    params.global_scale = 1.0F;
    QuantizedTensor out;
    const Error slice = error_of([&] {
      rtn->quantize_rows(weights.view().slice_rows(279, 21), args, scale_type(args, DType::F32), params, {}, out, {});
    });
    CHECK(slice.code() == ErrorCode::numerical);
    CHECK(contains(slice.what(), "row 11, column 3"));
    CHECK(contains(slice.what(), "infinite"));
  }
}

TEST_CASE("wrong usage is refused with a reason") {
  const Weights weights = sample_weights(4, 32, DType::F32);
  const QuantArgs int4 = make_args(NumberType::integer, 4, true, Strategy::channel);
  const auto refused = [&](const QuantArgs& args, const std::string& part) {
    const Error error = error_of([&] { rtn_quantize(weights.view(), args); });
    INFO(error.what());
    CHECK(error.code() == ErrorCode::usage);
    CHECK(contains(error.what(), part));
  };
  refused(make_args(NumberType::integer, 9, true, Strategy::channel), "num_bits");
  refused(make_args(NumberType::integer, 4, true, Strategy::group), "group_size");
  refused(observed(int4, "minmaxx"), "minmaxx");
  refused(with(int4, "norm", 0.0), "norm");
  refused(with(int4, "norm", std::string("two")), "norm");
  refused(with(int4, "maxshrink", 1.5), "maxshrink");
  refused(with(int4, "grid", std::int64_t{0}), "grid");
  refused(with(int4, "percentile", 0.2), "percentile");
  refused(
      with(make_args(NumberType::integer, 1, true, Strategy::channel), "symmetric_range", std::string("restricted")),
      "at least 2 bits");
  QuantArgs token = int4;
  token.strategy = Strategy::token;
  token.dynamic = Dynamic::yes;
  refused(token, "token");
  QuantArgs odd_scale = int4;
  odd_scale.scale_dtype = DType::I32;
  refused(odd_scale, "scale_dtype");
}

TEST_CASE("importance must fit the columns and be finite and not negative") {
  const Weights weights = sample_weights(4, 8, DType::F32);
  const QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::channel);
  std::vector<float> importance(7, 1.0F);
  CHECK(error_of([&] { rtn_quantize(weights.view(), args, importance); }).code() == ErrorCode::usage);
  importance.assign(8, 1.0F);
  CHECK_NOTHROW(rtn_quantize(weights.view(), args, importance));
  for (const float bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    importance[5] = bad;
    CHECK(contains(error_of([&] { rtn_quantize(weights.view(), args, importance); }).what(), "column 5"));
  }
}

TEST_CASE("weights that are no real numbers and a missing tensor scale are refused") {
  const std::vector<std::int32_t> integers(16);
  const TensorView view{DType::I32, {4, 4}, std::as_bytes(std::span(integers))};
  const QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::tensor);
  CHECK(error_of([&] { rtn_quantize(view, args); }).code() == ErrorCode::unsupported);
  const auto rtn = make_rtn();
  CHECK(error_of([&] { rtn->prepare(view, args, {}, 1); }).code() == ErrorCode::unsupported);
  QuantizedTensor out;
  const Weights weights = sample_weights(4, 4, DType::F32);
  CHECK(error_of([&] { rtn->quantize_rows(weights.view(), args, DType::F32, {}, {}, out, {}); }).code() ==
        ErrorCode::usage);
  CHECK(!rtn->needs().any());
  CHECK(!rtn->unsupported(args));
}

TEST_CASE("float64 and float8 weights are quantized through float32") {
  const Weights weights = sample_weights(5, 40, DType::F32);
  const std::vector<double> doubles(weights.values.begin(), weights.values.end());
  const QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::group, 16);
  const TensorView wide{DType::F64, {5, 40}, std::as_bytes(std::span(doubles))};
  CHECK(same_result(rtn_quantize(wide, args), rtn_quantize(weights.view(), args)));
}

TEST_CASE("matrices without elements give empty results") {
  const Weights none = stored({}, 0, 32, DType::F32), narrow = stored({}, 3, 0, DType::F32);
  for (const QuantArgs& args : all_schemes()) {
    CHECK(rtn_quantize(none.view(), args).codes.empty());
    CHECK(rtn_quantize(narrow.view(), args).codes.empty());
  }
}
