// Sparsity in equals sparsity out: what holds for every algorithm that chooses codes where the scheme keeps zeros.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>

#include "gptq/helpers.h"
#include "quant/block_encode.h"
#include "quant/error.h"
#include "quant/outliers.h"
#include "quant/registry.h"
#include "quant/rtn.h"
#include "schemes.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

struct Named {
  std::string name;
  Parameters parameters;
  std::unique_ptr<Algorithm> algorithm;
};

const Registry& registry() {
  static const Registry all = [] {
    Registry list;
    register_builtin_algorithms(list);
    return list;
  }();
  return all;
}

std::vector<Named> quantizers(bool calibrated) {
  std::vector<Named> list;
  for (const AlgorithmEntry& entry : registry().algorithms()) {
    std::vector<Parameters> ways = {{}};
    if (entry.name == "gptq") {
      for (const char* order : {"none", "static", "group", "group_aware"}) ways.push_back({{"actorder", order}});
      ways.push_back({{"static_groups", false}, {"actorder", "group"}, {"refine_rounds", std::int64_t{2}}});
      ways.push_back({{"scale_search", "solve"}, {"refine_rounds", std::int64_t{1}}, {"asymmetric", 1.0}});
      ways.push_back({{"asymmetric", 1.0}, {"static_groups", false}, {"actorder", "group"}});
      ways.push_back({{"scale_search", "diagonal"}, {"residual", 1.0}, {"block_size", std::int64_t{7}}});
    }
    if (entry.name == "kmeans") ways.push_back({{"method", "lloyd"}});
    if (entry.name == "hqq") ways.push_back({{"unit", "weights"}});
    if (entry.name == "llm_int8") ways.push_back({{"outlier_statistics", true}});
    for (const Parameters& way : ways) {
      std::unique_ptr<Algorithm> algorithm = entry.create(way);
      if (algorithm->role() != Role::quantize) continue;
      if ((dynamic_cast<const CalibratedQuantizer*>(algorithm.get()) != nullptr) != calibrated) continue;
      list.push_back({entry.name, way, std::move(algorithm)});
    }
  }
  return list;
}

std::string title(const Named& named, const QuantArgs& args) {
  std::string text = named.name;
  for (const auto& [name, value] : named.parameters) text += " " + name;
  return text + " " + describe(args);
}

std::vector<QuantArgs> kept_schemes() {
  std::vector<QuantArgs> list = every_scheme();
  for (const BlockFormat& format : block_formats()) {
    if (format.weights > 1 && can_encode(format.type)) list.push_back(block_args(format.type));
  }
  for (QuantArgs& args : list) args.keep_zeros = true;
  return list;
}

// Half of the weights 0, some of them -0; a row of zeros, a group without any, rows of one sign.
Weights sparse_weights(std::uint64_t rows, std::uint64_t cols, DType type) {
  Weights weights = sample_weights(rows, cols, DType::F32);
  std::mt19937 random(8);
  for (std::uint64_t i = 0; i < weights.values.size(); ++i) {
    const bool dense = i / cols == 5 && i % cols < 48;
    if (!dense && random() % 2 == 0) weights.values[i] = random() % 8 == 0 ? -0.0F : 0.0F;
  }
  return stored(weights.values, rows, cols, type);
}

// Zeros of the weights that are something else in the result.
std::size_t lost_zeros(const Weights& weights, const QuantizedTensor& q) {
  std::vector<float> row(q.cols);
  std::size_t lost = 0;
  for (std::uint64_t r = 0; r < q.rows; ++r) {
    dequantize_row(q, r, row);
    for (std::uint64_t c = 0; c < q.cols; ++c) lost += weights.at(r, c) == 0 && row[c] != 0 ? 1 : 0;
  }
  return lost;
}

constexpr std::pair<std::uint64_t, std::uint64_t> kShapes[] = {{1, 1}, {3, 16}, {9, 120}, {70, 257}};

QuantizedTensor code(const Quantizer& quantizer, const Weights& weights, const QuantArgs& args) {
  const DType type = is_mx(args) ? DType::U8 : args.scale_dtype.value_or(weights.type);
  QuantizedTensor out;
  const TensorParams params = quantizer.prepare(weights.view(), args, {}, 2);
  quantizer.quantize_rows(weights.view(), args, type, params, {}, out, {});
  return out;
}

QuantizedTensor code(const CalibratedQuantizer& quantizer, const Weights& weights, const QuantArgs& args,
                     const InputStatistics& inputs) {
  std::vector<float> values = weights.values;
  QuantizedTensor out;
  LinearTask task;
  task.module = "a";
  task.rows = weights.rows;
  task.cols = weights.cols;
  task.weight = values;
  task.args = args;
  task.scale_dtype = stored_scale_type(args);
  task.out = &out;
  RunContext context;
  context.threads = 2;
  quantizer.quantize({&task, 1}, inputs, context);
  return out;
}

}  // namespace

TEST_CASE("zeros stay exactly zero in every scheme of every quantizer that keeps them") {
  for (const Named& named : quantizers(false)) {
    const auto& quantizer = dynamic_cast<const Quantizer&>(*named.algorithm);
    std::size_t schemes = 0;
    for (const QuantArgs& args : kept_schemes()) {
      if (quantizer.unsupported(args)) continue;
      ++schemes;
      std::vector<std::pair<std::uint64_t, std::uint64_t>> shapes(std::begin(kShapes), std::end(kShapes));
      if (has_blocks(args)) shapes = {{1, 256}, {9, 768}};
      for (const auto& [rows, cols] : shapes) {
        for (const DType type : {DType::F32, DType::BF16}) {
          INFO(title(named, args) << " " << rows << "x" << cols);
          const Weights weights = sparse_weights(rows, cols, type);
          CHECK(lost_zeros(weights, code(quantizer, weights, args)) == 0);
        }
      }
    }
    INFO(named.name);
    CHECK(schemes > 0);
  }
}

TEST_CASE("zeros stay exactly zero beside a sparse part") {
  for (const Named& named : quantizers(false)) {
    const auto& dense = dynamic_cast<const Quantizer&>(*named.algorithm);
    const std::unique_ptr<Quantizer> quantizer = with_sparse_part(dense);
    for (QuantArgs args : kept_schemes()) {
      args.outlier_percent = 1;
      args.sensitive_percent = 60;  // more than there are weights other than 0
      if (has_blocks(args) || quantizer->unsupported(args)) continue;
      INFO(title(named, args));
      const Weights weights = sparse_weights(9, 120, DType::F32);
      CHECK(lost_zeros(weights, code(*quantizer, weights, args)) == 0);
    }
  }
}

TEST_CASE("zeros stay exactly zero where errors are passed on") {
  std::map<std::uint64_t, InputStatistics> inputs_of;
  for (const auto& [rows, cols] : kShapes) {
    InputStatistics& inputs = inputs_of[cols] = correlated_inputs(cols, 300);
    inputs.cross_gram = inputs.gram;
    for (float& value : inputs.cross_gram) value *= 0.3F;
    inputs.residual.assign(rows * cols, 0.01F);
  }
  std::size_t turn = 0;
  for (const Named& named : quantizers(true)) {
    const auto& quantizer = dynamic_cast<const CalibratedQuantizer&>(*named.algorithm);
    for (const QuantArgs& args : kept_schemes()) {
      if (quantizer.unsupported(args)) continue;
      ++turn;
      for (const auto& [rows, cols] : kShapes) {
        // Several blocks of columns take 100 times as long as one: each scheme has them for some of the ways.
        if (cols > 128 && turn % 7 != 0) continue;
        const Weights weights = sparse_weights(rows, cols, DType::F32);
        for (const std::uint64_t tokens : {300, 0}) {
          INFO(title(named, args) << " " << rows << "x" << cols << " tokens " << tokens);
          inputs_of[cols].tokens = tokens;
          const QuantizedTensor out = code(quantizer, weights, args, inputs_of[cols]);
          REQUIRE(out.rows == rows);
          CHECK(lost_zeros(weights, out) == 0);
        }
      }
    }
  }
}

TEST_CASE("a scheme without a zero is refused where zeros are to be kept, and only there") {
  for (const bool calibrated : {false, true}) {
    for (const Named& named : quantizers(calibrated)) {
      for (QuantArgs args : kept_schemes()) {
        const auto refusal = named.algorithm->unsupported(args);
        args.keep_zeros = false;
        if (!refusal || named.algorithm->unsupported(args)) continue;
        INFO(title(named, args));
        CHECK(refusal->starts_with("keep_zeros: "));
        CHECK(((args.codebook == Codebook::sign && named.name == "bitnet") || named.name == "gguf"));
      }
    }
  }
}

TEST_CASE("weights without zeros are coded as if zeros were not kept") {
  Weights weights = sample_weights(9, 120, DType::F32);
  for (float& value : weights.values) value = value == 0 ? 0.01F : value;
  for (const Named& named : quantizers(false)) {
    const auto& quantizer = dynamic_cast<const Quantizer&>(*named.algorithm);
    for (QuantArgs args : kept_schemes()) {
      if (quantizer.unsupported(args) || has_blocks(args)) continue;
      INFO(title(named, args));
      const QuantizedTensor kept = code(quantizer, weights, args);
      args.keep_zeros = false;
      const QuantizedTensor free = code(quantizer, weights, args);
      CHECK((kept.codes == free.codes && kept.scales == free.scales && kept.codebook == free.codebook));
      CHECK((kept.zero_points == free.zero_points && kept.real_zero_points == free.real_zero_points));
    }
  }
}

TEST_CASE("GPTQ spreads the errors over the weights that are kept") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(64 * 120);
  for (float& value : values) value = random() % 2 == 0 ? 0.0F : normal(random);
  const Weights weights = stored(values, 64, 120, DType::F32);
  const InputStatistics inputs = correlated_inputs(120, 600);
  for (const std::int64_t group : {0, 40}) {
    for (const bool symmetric : {true, false}) {
      QuantArgs args =
          make_args(NumberType::integer, 4, symmetric, group == 0 ? Strategy::channel : Strategy::group, group);
      QuantizedTensor free = gptq_quantize(weights.values, 64, inputs, args).tensor;
      for (std::size_t i = 0; i < free.codes.size(); ++i) {  // what one had to do without keep_zeros
        const std::size_t scale = i / 120 * free.grid.cols + i % 120 / free.grid.col_extent;
        if (weights.values[i] == 0) free.codes[i] = symmetric ? std::int8_t{0} : free.zero_points[scale];
      }
      args.keep_zeros = true;
      GptqOptions options;
      const double kept = output_error(weights.values, gptq_quantize(weights.values, 64, inputs, args).tensor, inputs);
      options.refine_rounds = 3;
      const QuantizedTensor refined = gptq_quantize(weights.values, 64, inputs, args, options).tensor;
      INFO(describe(args));
      CHECK(lost_zeros(weights, refined) == 0);
      CHECK(kept < 0.9 * output_error(weights.values, free, inputs));
      CHECK(kept < 0.8 * output_error(weights.values, code(*make_rtn(), weights, args), inputs));
      CHECK(output_error(weights.values, refined, inputs) < kept);
    }
  }
}

TEST_CASE("a codebook with an entry of 0 is nearly as good as the best such codebook", "[golden]") {
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  std::vector<float> values(40);
  for (float& value : values) value = random() % 2 == 0 ? 0.0F : normal(random);
  QuantArgs args = make_args(NumberType::codebook, 2, true, Strategy::channel);
  args.keep_zeros = true;
  const QuantizedTensor q = code(dynamic_cast<const Quantizer&>(*registry().algorithm("kmeans")->create({})),
                                 stored(values, 1, 40, DType::F32), args);
  std::vector<float> row(40);
  dequantize_row(q, 0, row);
  double error = 0;
  for (std::size_t i = 0; i < 40; ++i) error += std::pow(static_cast<double>(values[i]) - row[i], 2);
  // The best: the sorted values in four runs, of which one has the value 0 and the others their means.
  std::sort(values.begin(), values.end());
  const auto cost = [&](std::size_t begin, std::size_t end, bool zero) {
    double sum = 0, squares = 0;
    for (std::size_t i = begin; i < end; ++i) sum += values[i], squares += static_cast<double>(values[i]) * values[i];
    return zero || begin == end ? squares : squares - sum * sum / static_cast<double>(end - begin);
  };
  double best = 1e300;
  for (std::size_t a = 0; a <= 40; ++a) {
    for (std::size_t b = a; b <= 40; ++b) {
      for (std::size_t c = b; c <= 40; ++c) {
        for (int zero = 0; zero < 4; ++zero) {
          best = std::min(
              best, cost(0, a, zero == 0) + cost(a, b, zero == 1) + cost(b, c, zero == 2) + cost(c, 40, zero == 3));
        }
      }
    }
  }
  CHECK(error >= best - 1e-9);
  CHECK(error <= 1.1 * best);
}
