// What comes after the last column: coordinate descent and scales that suit the codes.
#include <algorithm>

#include "gptq/helpers.h"
#include "quant/rtn.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

GptqOptions refined(std::uint64_t rounds, bool scales, ColumnOrder order = ColumnOrder::weight) {
  GptqOptions options;
  options.block_size = 32;
  options.dampening_frac = 1e-4;
  options.refine_rounds = rounds;
  options.refit_scales = scales;
  options.order = order;
  return options;
}

}  // namespace

TEST_CASE("each round lowers the output error, or leaves it, in every scheme and order") {
  const std::uint64_t rows = 70, cols = 120;  // more than one tile of rows
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  const InputStatistics inputs = correlated_inputs(cols, 600);
  for (const QuantArgs& args : all_schemes()) {
    if (make_gptq()->unsupported(args)) continue;
    for (const ColumnOrder order : {ColumnOrder::weight, ColumnOrder::group}) {
      if (order == ColumnOrder::group && args.strategy != Strategy::group) continue;
      double last = 0;
      for (const std::uint64_t rounds : {0, 1, 3}) {
        INFO(describe(args) << " " << to_string(order) << " rounds " << rounds);
        const GptqResult result = gptq_quantize(weights.values, rows, inputs, args, refined(rounds, true, order));
        CHECK(result.record.fallback.empty());
        const double error = output_error(weights.values, result.tensor, inputs);
        if (rounds > 0) CHECK(error <= last * 1.001);  // the damped error is what must not grow
        last = error;
      }
    }
  }
}

TEST_CASE("refined codes are each the best while the others stay") {
  const std::uint64_t rows = 9, cols = 72;
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  const InputStatistics inputs = correlated_inputs(cols, 600);
  for (const QuantArgs& args : {make_args(NumberType::integer, 3, false, Strategy::group, 24),
                                make_args(NumberType::integer, 2, true, Strategy::channel),
                                make_args(NumberType::floating, 4, true, Strategy::channel)}) {
    GptqOptions options = refined(200, false);
    QuantizedTensor q = gptq_quantize(weights.values, rows, inputs, args, options).tensor;
    const double error = output_error(weights.values, q, inputs);
    std::size_t better = 0;
    for (std::size_t i = 0; i < q.codes.size(); i += 5) {
      const std::int8_t code = q.codes[i];
      const int lowest = args.type == NumberType::floating ? 0 : code_min(args);
      const int highest = args.type == NumberType::floating ? 15 : code_max(args);
      for (int other = lowest; other <= highest; ++other) {
        q.codes[i] = static_cast<std::int8_t>(other);
        better += output_error(weights.values, q, inputs) < error * (1 - 1e-4) ? 1 : 0;
      }
      q.codes[i] = code;
    }
    INFO(describe(args));
    CHECK(better == 0);
  }
}

TEST_CASE("refitted scales are each the best of their kind while all codes stay") {
  const std::uint64_t rows = 9, cols = 72;
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  const InputStatistics inputs = correlated_inputs(cols, 600);
  QuantArgs block = make_args(NumberType::integer, 3, true, Strategy::block);
  for (const QuantArgs& args : {make_args(NumberType::integer, 3, false, Strategy::group, 24),
                                make_args(NumberType::integer, 2, true, Strategy::channel), block, nvfp4()}) {
    QuantizedTensor q = gptq_quantize(weights.values, rows, inputs, args, refined(300, true)).tensor;
    const double error = output_error(weights.values, q, inputs);
    std::size_t better = 0;
    for (std::size_t i = 0; i < q.scales.size(); ++i) {
      const float scale = q.scales[i];
      for (const float factor : {0.9F, 0.99F, 1.01F, 1.1F}) {
        q.scales[i] =
            is_nvfp4(args) ? round_to_dtype(DType::F8_E4M3, scale * (factor > 1 ? 1.12F : 0.89F)) : scale * factor;
        better += output_error(weights.values, q, inputs) < error * (1 - 1e-4) ? 1 : 0;
      }
      q.scales[i] = scale;
    }
    INFO(describe(args));
    CHECK(better == 0);
  }
}

TEST_CASE("refining gives the same bits for any number of threads, and closely the same for any block") {
  const std::uint64_t rows = 1400, cols = 96;  // enough for three threads
  const Weights weights = sample_weights(rows, cols, DType::F32, 4);
  const InputStatistics inputs = correlated_inputs(cols, 400);
  for (const QuantArgs& args : {make_args(NumberType::integer, 3, false, Strategy::group, 32),
                                make_args(NumberType::integer, 4, true, Strategy::channel),
                                make_args(NumberType::floating, 8, true, Strategy::block), nvfp4()}) {
    GptqOptions options = refined(2, true);
    const GptqResult one = gptq_quantize(weights.values, rows, inputs, args, options, 1);
    const GptqResult four = gptq_quantize(weights.values, rows, inputs, args, options, 4);
    INFO(describe(args));
    CHECK(same_result(one.tensor, four.tensor));
    options.block_size = 96;  // groups of 32 are then refitted in a panel of three
    const GptqResult other = gptq_quantize(weights.values, rows, inputs, args, options);
    CHECK(output_error(weights.values, other.tensor, inputs) ==
          Approx(output_error(weights.values, one.tensor, inputs)).epsilon(0.1));  // another local minimum
  }
}

TEST_CASE("refining leaves nearest codes of independent inputs alone") {
  const Weights weights = sample_weights(9, 100, DType::F32);
  const InputStatistics inputs = identity_inputs(100);
  for (const QuantArgs& args : all_schemes()) {
    if (make_gptq()->unsupported(args)) continue;
    INFO(describe(args));
    CHECK(output_error(weights.values, gptq_quantize(weights.values, 9, inputs, args, refined(2, false)).tensor,
                       inputs) ==
          Approx(output_error(weights.values, rtn_quantize(weights.view(), args), inputs)).epsilon(1e-6));
  }
}

TEST_CASE("trying ranges with whole solves is never worse than the plain range, row by row") {
  const std::uint64_t rows = 70, cols = 120;
  const Weights weights = sample_weights(rows, cols, DType::F32, 3);
  const InputStatistics inputs = correlated_inputs(cols, 600);
  const auto row_error = [&](const QuantizedTensor& q, std::uint64_t first, std::uint64_t count) {
    QuantizedTensor part = q;
    part.rows = count;
    part.codes.assign(q.codes.begin() + static_cast<std::ptrdiff_t>(first * cols),
                      q.codes.begin() + static_cast<std::ptrdiff_t>((first + count) * cols));
    const auto at = static_cast<std::ptrdiff_t>(first / q.grid.row_extent * q.grid.cols);
    part.scales.assign(q.scales.begin() + at, q.scales.end());
    if (!q.zero_points.empty()) part.zero_points.assign(q.zero_points.begin() + at, q.zero_points.end());
    const std::vector<float> values(weights.values.begin() + static_cast<std::ptrdiff_t>(first * cols),
                                    weights.values.begin() + static_cast<std::ptrdiff_t>((first + count) * cols));
    return output_error(values, part, inputs);
  };
  for (const QuantArgs& args : all_schemes()) {
    if (make_gptq()->unsupported(args)) continue;
    for (const bool static_groups : {true, false}) {
      GptqOptions options = refined(0, false, ColumnOrder::group_aware);
      options.static_groups = static_groups;
      options.dampening_frac = 1e-5;  // the damped error is what is compared
      const QuantizedTensor plain = gptq_quantize(weights.values, rows, inputs, args, options, 1).tensor;
      options.scale_search = ScaleSearch::solve;
      const QuantizedTensor tried = gptq_quantize(weights.values, rows, inputs, args, options, 1).tensor;
      const std::uint64_t height = args.strategy == Strategy::tensor ? rows : plain.grid.row_extent;
      std::size_t worse = 0;
      for (std::uint64_t r = 0; r < rows; r += height) {
        const std::uint64_t count = std::min(height, rows - r);
        worse += row_error(tried, r, count) > row_error(plain, r, count) * 1.001 + 1e-12 ? 1 : 0;
      }
      INFO(describe(args) << " static " << static_groups);
      CHECK(worse == 0);
    }
  }
}
