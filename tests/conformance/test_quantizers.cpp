// What holds for every registered algorithm that chooses codes, for every scheme that it accepts and every shape.
#include <cmath>
#include <memory>

#include "quant/error.h"
#include "quant/registry.h"
#include "rtn/reference.h"
#include "schemes.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

struct Named {
  std::string name;
  std::unique_ptr<Algorithm> algorithm;
  const Quantizer& quantizer() const { return dynamic_cast<const Quantizer&>(*algorithm); }
};

std::vector<Named> quantizers() {
  static const Registry registry = [] {
    Registry all;
    register_builtin_algorithms(all);
    return all;
  }();
  std::vector<Named> list;
  for (const AlgorithmEntry& entry : registry.algorithms()) {
    std::unique_ptr<Algorithm> algorithm = entry.create({});
    if (algorithm->role() == Role::quantize && !algorithm->needs().any())
      list.push_back({entry.name, std::move(algorithm)});
  }
  return list;
}

DType scale_type(const QuantArgs& args, DType weight) {
  return is_mx(args) ? DType::U8 : args.scale_dtype.value_or(weight);
}

QuantizedTensor quantize(const Quantizer& quantizer, const Weights& weights, const QuantArgs& args,
                         std::vector<ErrorSums>& sums) {
  const TensorParams params = quantizer.prepare(weights.view(), args, {}, 2);
  QuantizedTensor out;
  sums.resize(weights.rows);
  quantizer.quantize_rows(weights.view(), args, scale_type(args, weights.type), params, {}, out, {sums, {}, {}});
  return out;
}

constexpr std::pair<std::uint64_t, std::uint64_t> kShapes[] = {{1, 1}, {3, 16}, {7, 50}, {5, 257}};

}  // namespace

TEST_CASE("the registry has algorithms, each complete and creatable") {
  Registry registry;
  register_builtin_algorithms(registry);
  REQUIRE(!registry.algorithms().empty());
  for (const AlgorithmEntry& entry : registry.algorithms()) {
    INFO(entry.name);
    CHECK(!entry.modifier.empty());
    CHECK(!entry.summary.empty());
    CHECK(!entry.source.empty());
    CHECK(entry.create({}) != nullptr);
    CHECK(registry.algorithm(entry.name) == &entry);
  }
  CHECK(!quantizers().empty());
}

TEST_CASE("results are complete, in range and measured as they are") {
  for (const Named& named : quantizers()) {
    for (const QuantArgs& args : every_scheme()) {
      if (named.quantizer().unsupported(args)) continue;
      for (const auto& [rows, cols] : kShapes) {
        INFO(named.name << " " << describe(args) << " " << rows << "x" << cols);
        const Weights weights = sample_weights(rows, cols, DType::F16);
        std::vector<ErrorSums> sums;
        const QuantizedTensor q = quantize(named.quantizer(), weights, args, sums);
        const ScaleGrid grid = scale_grid(args, rows, cols);
        REQUIRE((q.rows == rows && q.cols == cols && q.codes.size() == rows * cols));
        REQUIRE(q.scales.size() == (has_learned_codebook(args) ? 0 : grid.count()));
        const bool real = has_real_zero_points(args);
        REQUIRE(q.zero_points.size() == (args.symmetric || real ? 0 : grid.count()));
        REQUIRE(q.real_zero_points.size() == (real ? grid.count() : 0));
        std::size_t wrong = 0;
        for (const float scale : q.scales) wrong += !std::isfinite(scale) || scale == 0 ? 1 : 0;
        if (args.type == NumberType::integer) {
          for (const std::int8_t code : q.codes) wrong += code < code_min(args) || code > code_max(args) ? 1 : 0;
        } else if (args.type == NumberType::codebook) {
          for (const std::int8_t code : q.codes) wrong += static_cast<std::uint8_t>(code) > code_max(args) ? 1 : 0;
        }
        CHECK(wrong == 0);
        ErrorSums total;
        for (const ErrorSums& row : sums) {
          total.noise += row.noise;
          total.count += row.count;
        }
        CHECK(total.count == rows * cols);
        CHECK(total.noise == Approx(total_error(weights, q, 2)).epsilon(1e-5).margin(1e-12));
      }
    }
  }
}

TEST_CASE("more bits never make the error larger") {
  const Weights weights = sample_weights(9, 120, DType::F32);
  for (const Named& named : quantizers()) {
    for (const bool symmetric : {true, false}) {
      double last = 1e300;
      for (int bits = 2; bits <= 8; ++bits) {
        const QuantArgs args = make_args(NumberType::integer, bits, symmetric, Strategy::group, 40);
        if (named.quantizer().unsupported(args)) continue;
        std::vector<ErrorSums> sums;
        const double error = total_error(weights, quantize(named.quantizer(), weights, args, sums), 2);
        INFO(named.name << " " << describe(args));
        CHECK(error < last);
        last = error;
      }
    }
  }
}

TEST_CASE("objects without state between calls: the same input gives the same output") {
  const Weights weights = sample_weights(6, 64, DType::BF16), other = sample_weights(6, 48, DType::F32, 9);
  for (const Named& named : quantizers()) {
    for (const QuantArgs& args : every_scheme()) {
      if (named.quantizer().unsupported(args)) continue;
      INFO(named.name << " " << describe(args));
      std::vector<ErrorSums> sums;
      const QuantizedTensor first = quantize(named.quantizer(), weights, args, sums);
      quantize(named.quantizer(), other, args, sums);
      CHECK(same_result(quantize(named.quantizer(), weights, args, sums), first));
    }
  }
}

TEST_CASE("a NaN weight is refused as a numerical error that names its place") {
  Weights weights = sample_weights(9, 64, DType::F32);
  weights.values[6 * 64 + 33] = std::nanf("");
  for (const Named& named : quantizers()) {
    for (const QuantArgs& args : every_scheme()) {
      if (named.quantizer().unsupported(args)) continue;
      INFO(named.name << " " << describe(args));
      try {
        std::vector<ErrorSums> sums;
        quantize(named.quantizer(), weights, args, sums);
        FAIL("accepted");
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::numerical);
        CHECK(std::string(error.what()).find("row 6, column 33") != std::string::npos);
      }
    }
  }
}

TEST_CASE("an importance that is NaN, negative or of another length is refused, unless it is not used") {
  const Weights weights = sample_weights(9, 64, DType::F32);
  std::vector<std::vector<float>> bad(3, std::vector<float>(64, 1.0F));
  bad[0][13] = std::nanf("");
  bad[1][13] = -1.0F;
  bad[2].resize(63);
  for (const Named& named : quantizers()) {
    if (named.name == "llm_int8") continue;  // weighs nothing
    for (const QuantArgs& args : every_scheme()) {
      if (named.quantizer().unsupported(args)) continue;
      for (const auto& importance : bad) {
        INFO(named.name << " " << describe(args) << ", " << importance.size() << " numbers");
        QuantizedTensor out;
        const auto code = [&] {
          const TensorParams params = named.quantizer().prepare(weights.view(), args, importance, 2);
          named.quantizer().quantize_rows(weights.view(), args, scale_type(args, weights.type), params, importance, out,
                                          {});
        };
        CHECK_THROWS_AS(code(), Error);
      }
    }
  }
}
