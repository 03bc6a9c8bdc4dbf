// Laws that GPTQ keeps for every scheme.
#include <algorithm>
#include <numeric>

#include "gptq/helpers.h"
#include "quant/error.h"
#include "quant/rtn.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

constexpr ColumnOrder kAllOrders[] = {ColumnOrder::none, ColumnOrder::weight, ColumnOrder::group,
                                      ColumnOrder::group_aware};

GptqOptions ordered(ColumnOrder order) {
  GptqOptions options;
  options.order = order;
  options.block_size = 32;
  return options;
}

bool accepted(const QuantArgs& args) { return !make_gptq()->unsupported(args); }

}  // namespace

TEST_CASE("independent inputs of equal size give the codes of round to nearest") {
  const Weights weights = sample_weights(9, 100, DType::F32);
  const InputStatistics inputs = identity_inputs(100);
  for (const QuantArgs& args : all_schemes()) {
    if (!accepted(args)) continue;
    const QuantizedTensor nearest = rtn_quantize(weights.view(), args);
    for (const ColumnOrder order : kAllOrders) {
      for (const bool static_groups : {true, false}) {
        GptqOptions options = ordered(order);
        options.static_groups = static_groups;
        INFO(describe(args) << " " << to_string(order));
        const GptqResult result = gptq_quantize(weights.values, 9, inputs, args, options);
        CHECK(same_result(result.tensor, nearest));
        CHECK(result.record.fallback.empty());
      }
    }
  }
}

TEST_CASE("the error on correlated inputs is below that of round to nearest in every scheme") {
  const std::uint64_t rows = 24, cols = 120;
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  const InputStatistics inputs = correlated_inputs(cols, 600);
  for (const QuantArgs& args : all_schemes()) {
    if (!accepted(args)) continue;
    if (args.num_bits == 1 && args.symmetric && symmetric_range(args) == SymmetricRange::standard) continue;  // all 0
    const double nearest = output_error(weights.values, rtn_quantize(weights.view(), args), inputs);
    for (const ColumnOrder order : kAllOrders) {
      INFO(describe(args) << " " << to_string(order));
      const GptqResult result = gptq_quantize(weights.values, rows, inputs, args, ordered(order));
      CHECK(output_error(weights.values, result.tensor, inputs) < nearest);
      CHECK(result.record.damping == 0.01);
    }
  }
}

TEST_CASE("the number of threads and the size of blocks do not change a code") {
  const std::uint64_t rows = 1400, cols = 96;  // enough for three threads
  const Weights weights = sample_weights(rows, cols, DType::F32, 4);
  const InputStatistics inputs = correlated_inputs(cols, 400);
  for (const QuantArgs& args : {make_args(NumberType::integer, 3, false, Strategy::group, 32),
                                make_args(NumberType::integer, 4, true, Strategy::channel),
                                make_args(NumberType::floating, 8, true, Strategy::block), nvfp4()}) {
    for (const ColumnOrder order : kAllOrders) {
      const GptqResult one = gptq_quantize(weights.values, rows, inputs, args, ordered(order), 1);
      const GptqResult four = gptq_quantize(weights.values, rows, inputs, args, ordered(order), 4);
      INFO(describe(args) << " " << to_string(order));
      CHECK(same_result(one.tensor, four.tensor));
      CHECK(one.tensor.group_index == four.tensor.group_index);
      std::size_t different = 0;
      GptqOptions options = ordered(order);
      options.block_size = 17;
      const GptqResult other = gptq_quantize(weights.values, rows, inputs, args, options);
      for (std::size_t i = 0; i < one.tensor.codes.size(); ++i) {
        different += one.tensor.codes[i] != other.tensor.codes[i] ? 1 : 0;
      }
      CHECK(different * 50 < one.tensor.codes.size());  // sums in another order: a few ties, and what follows them
    }
  }
}

TEST_CASE("act-order does not depend on the order of the columns in the file") {
  const std::uint64_t rows = 12, cols = 80;
  const Weights weights = sample_weights(rows, cols, DType::F32, 6);
  const InputStatistics inputs = correlated_inputs(cols, 500);
  std::vector<std::uint32_t> moved(cols);
  std::iota(moved.begin(), moved.end(), 0U);
  std::mt19937 random(2);
  std::shuffle(moved.begin(), moved.end(), random);
  std::vector<float> shuffled(weights.values.size());
  InputStatistics other = inputs;
  for (std::uint64_t i = 0; i < cols; ++i) {
    for (std::uint64_t r = 0; r < rows; ++r) shuffled[r * cols + i] = weights.values[r * cols + moved[i]];
    for (std::uint64_t j = 0; j < cols; ++j) other.gram[i * cols + j] = inputs.gram[moved[i] * cols + moved[j]];
  }
  const QuantArgs channel = make_args(NumberType::integer, 4, true, Strategy::channel);
  const QuantArgs group = make_args(NumberType::integer, 4, false, Strategy::group, 16);
  for (const auto& [args, order] :
       {std::pair(channel, ColumnOrder::weight), std::pair(channel, ColumnOrder::group_aware),
        std::pair(group, ColumnOrder::group)}) {
    const QuantizedTensor a = gptq_quantize(weights.values, rows, inputs, args, ordered(order)).tensor;
    const QuantizedTensor b = gptq_quantize(shuffled, rows, other, args, ordered(order)).tensor;
    std::size_t wrong = 0;
    for (std::uint64_t r = 0; r < rows; ++r) {
      for (std::uint64_t i = 0; i < cols; ++i) wrong += a.codes[r * cols + moved[i]] != b.codes[r * cols + i] ? 1 : 0;
    }
    INFO(describe(args) << " " << to_string(order));
    CHECK(wrong == 0);
    CHECK(a.scales == b.scales);
  }
}

TEST_CASE("a group's scales are those of its columns, wherever they were coded") {
  const std::uint64_t rows = 7, cols = 70;  // the last group is short
  const Weights weights = sample_weights(rows, cols, DType::F32, 8);
  const InputStatistics inputs = correlated_inputs(cols, 300);
  const QuantArgs args = make_args(NumberType::integer, 4, false, Strategy::group, 16);
  const QuantizedTensor nearest = rtn_quantize(weights.view(), args);
  for (const ColumnOrder order : {ColumnOrder::none, ColumnOrder::weight, ColumnOrder::group_aware}) {
    const QuantizedTensor q = gptq_quantize(weights.values, rows, inputs, args, ordered(order)).tensor;
    CHECK(q.scales == nearest.scales);
    CHECK(q.zero_points == nearest.zero_points);
    CHECK(q.group_index.empty());
  }
  const QuantizedTensor q = gptq_quantize(weights.values, rows, inputs, args, ordered(ColumnOrder::group)).tensor;
  REQUIRE(q.group_index.size() == cols);
  std::vector<int> members(5, 0);
  for (const std::int32_t group : q.group_index) ++members.at(static_cast<std::size_t>(group));
  CHECK(members == std::vector<int>{16, 16, 16, 16, 6});
  for (std::uint64_t r = 0; r < rows; ++r) {  // scale and zero point follow from the group's own range
    for (std::int32_t g = 0; g < 5; ++g) {
      float low = 0, high = 0, scale = 0;
      int zero = 0;
      for (std::uint64_t c = 0; c < cols; ++c) {
        if (q.group_index[c] != g) continue;
        low = std::min(low, weights.at(r, c));
        high = std::max(high, weights.at(r, c));
      }
      reference_scale(args, DType::F32, low, high, 1.0F, scale, zero);
      CHECK(q.scales[r * 5 + static_cast<std::size_t>(g)] == scale);
      CHECK(q.zero_points[r * 5 + static_cast<std::size_t>(g)] == zero);
    }
  }
}

TEST_CASE("the scheme's own act-order wins over the option") {
  const Weights weights = sample_weights(5, 64, DType::F32, 8);
  const InputStatistics inputs = correlated_inputs(64, 300);
  QuantArgs args = make_args(NumberType::integer, 4, true, Strategy::group, 16);
  args.actorder = ActOrder::group;
  CHECK(gptq_quantize(weights.values, 5, inputs, args, ordered(ColumnOrder::none)).tensor.group_index.size() == 64);
  args.actorder = ActOrder::none;
  const QuantizedTensor none = gptq_quantize(weights.values, 5, inputs, args, ordered(ColumnOrder::group)).tensor;
  CHECK(none.group_index.empty());
  args.actorder.reset();

  CHECK(none.codes == gptq_quantize(weights.values, 5, inputs, args, ordered(ColumnOrder::none)).tensor.codes);
}

TEST_CASE("the error of the residual stream is compensated as far as the inputs can tell it") {
  const std::uint64_t rows = 16, cols = 60;
  const Weights weights = sample_weights(rows, cols, DType::F32, 4);
  InputStatistics inputs = correlated_inputs(cols, 600);
  // R_F - R = X M^T: then the outputs wanted are those of W + M, and (R_F - R)^T X = M H.
  std::mt19937 random(5);
  std::normal_distribution<double> normal(0.0, 0.01);
  std::vector<double> m(rows * cols);
  for (double& value : m) value = normal(random);
  std::vector<float> wanted(weights.values);
  for (std::size_t i = 0; i < m.size(); ++i) wanted[i] += static_cast<float>(m[i]);
  inputs.residual.assign(rows * cols, 0.0F);
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (std::uint64_t k = 0; k < cols; ++k) sum += m[r * cols + k] * inputs.gram[k * cols + c];
      inputs.residual[r * cols + c] = static_cast<float>(sum);
    }
  }
  const QuantArgs args = make_args(NumberType::integer, 8, false, Strategy::channel);
  GptqOptions options = ordered(ColumnOrder::weight);
  options.dampening_frac = 1e-6;
  const double best = output_error(wanted, gptq_quantize(wanted, rows, inputs, args, options).tensor, inputs);
  double last = 1e300;
  for (const double share : {0.0, 0.5, 1.0}) {
    options.residual = share;
    const GptqResult result = gptq_quantize(weights.values, rows, inputs, args, options);
    const double error = output_error(wanted, result.tensor, inputs);
    INFO("share " << share);
    CHECK(error < last / 2);
    last = error;
  }
  CHECK(last == Approx(best).epsilon(0.05));
  // What was measured for another number of outputs, or is not finite, is not used.
  options.residual = 1;
  const auto plain = gptq_quantize(weights.values, rows, correlated_inputs(cols, 600), args, options).tensor.codes;
  const auto check_unused = [&](const std::string& reason) {
    const GptqResult result = gptq_quantize(weights.values, rows, inputs, args, options);
    CHECK(result.tensor.codes == plain);
    REQUIRE(result.record.notes.size() == 1);
    CHECK(result.record.notes[0].find(reason) != std::string::npos);
  };
  CHECK(gptq_quantize(weights.values, rows, inputs, args, options).record.notes.empty());
  inputs.residual[3] = std::numeric_limits<float>::quiet_NaN();
  check_unused("residual stream's error is not compensated: what was measured of it is not finite");
  inputs.residual.resize(cols);
  check_unused("what was measured of it does not fit the weight");
  options.residual = 1.5;
  CHECK_THROWS_AS(gptq_quantize(weights.values, rows, inputs, args, options), Error);
}

TEST_CASE("estimated operations follow the options and what there is of the inputs") {
  const std::uint64_t rows = 30, cols = 20;
  const double product = 2.0 * 30 * 20 * 20;
  CalibrationNeeds gram;
  gram.gram = true;
  CalibrationNeeds all = gram;
  all.cross_gram = all.residual = true;
  const auto operations = [&](auto change, const CalibrationNeeds& parts) {
    GptqOptions options;
    options.scale_search = ScaleSearch::none;
    options.asymmetric = options.residual = 0;
    options.refine_rounds = 0;
    change(options);
    return make_gptq(options)->operations(rows, cols, parts);
  };
  const double plain = operations([](GptqOptions&) {}, all);
  CHECK(plain == Approx(20.0 * 20 * 20 * 2 / 3 + product / 2));
  CHECK(operations([](GptqOptions& o) { o.refine_rounds = 3; }, all) == Approx(plain + 3 * product));
  CHECK(operations([](GptqOptions& o) { o.scale_search = ScaleSearch::solve; }, all) >= plain + product);
  CHECK(operations([](GptqOptions& o) { o.asymmetric = 0.5; }, all) == Approx(plain + 3 * product));
  CHECK(operations([](GptqOptions& o) { o.asymmetric = 0.5; }, gram) == plain);
  CHECK(operations([](GptqOptions& o) { o.residual = 1; }, all) == Approx(plain + 2 * product));
  CHECK(operations([](GptqOptions& o) { o.residual = 1; }, gram) == plain);
}

TEST_CASE("asymmetric calibration codes the weights whose outputs are nearest the unquantized model's") {
  const std::uint64_t rows = 16, cols = 60;
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  InputStatistics inputs = correlated_inputs(cols, 600);
  // F = X (I + M): then F W^T = X (W + W M^T)^T exactly, and C = M^T H.
  std::mt19937 random(3);
  std::normal_distribution<double> normal(0.0, 0.05);
  std::vector<double> m(cols * cols);
  for (double& value : m) value = normal(random);
  inputs.cross_gram.assign(cols * cols, 0.0F);
  for (std::uint64_t i = 0; i < cols; ++i) {
    for (std::uint64_t j = 0; j < cols; ++j) {
      double sum = 0;
      for (std::uint64_t k = 0; k < cols; ++k) sum += m[k * cols + i] * inputs.gram[k * cols + j];
      inputs.cross_gram[i * cols + j] = static_cast<float>(sum);
    }
  }
  std::vector<float> wanted(weights.values.size());
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      double sum = weights.at(r, c);
      for (std::uint64_t k = 0; k < cols; ++k) sum += weights.at(r, k) * m[c * cols + k];
      wanted[r * cols + c] = static_cast<float>(sum);
    }
  }
  const QuantArgs args = make_args(NumberType::integer, 8, false, Strategy::channel);
  double last = 1e300;
  for (const double alpha : {0.0, 0.5, 1.0}) {
    GptqOptions options = ordered(ColumnOrder::weight);
    options.dampening_frac = 1e-6;
    options.asymmetric = alpha;
    const GptqResult result = gptq_quantize(weights.values, rows, inputs, args, options);
    const double error = output_error(wanted, result.tensor, inputs);
    INFO("alpha " << alpha);
    CHECK(error < last / 3);
    last = error;
  }
  // With all of it the codes are as good as if the wanted weights had been given.
  GptqOptions options = ordered(ColumnOrder::weight);
  options.dampening_frac = 1e-6;
  CHECK(last ==
        Approx(output_error(wanted, gptq_quantize(wanted, rows, inputs, args, options).tensor, inputs)).epsilon(0.05));
}
