// Products of integers: inputs in 8 bits.
#include "packed_cases.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr std::uint64_t kBatches[] = {1, 2, 3, 5, 8, 17, 64, 130};

InputQuantizer int8_inputs(Strategy strategy, float scale) {
  InputQuantizer quantizer;
  quantizer.args.num_bits = 8;
  quantizer.args.strategy = strategy;
  quantizer.args.dynamic = scale == 0.0F ? Dynamic::yes : Dynamic::no;
  quantizer.scale = scale;
  return quantizer;
}

std::vector<PackedCase> integer_cases() {
  std::vector<PackedCase> cases;
  for (const PackedCase& item : packed_cases()) {
    if (item.args.type == NumberType::integer) cases.push_back(item);
  }
  cases.push_back(integer_case(8, Strategy::group, 128, false));
  cases.push_back(integer_case(2, Strategy::group, 64, true));
  return cases;
}

}  // namespace

// 127 times a power of two: 8 bits hold these inputs whatever columns share a scale, so the product is exact.
TEST_CASE("inputs of one magnitude survive 8 bits", "[packed]") {
  for (const PackedCase& item : integer_cases()) {
    const std::uint64_t rows = 37, cols = 300;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 5);
    Randomizer random(3);
    std::vector<float> x(130 * cols);
    for (float& value : x) value = random.between(0, 1) == 0 ? 127.0F / 8 : -127.0F / 8;
    const std::vector<float> bias = random.normals(rows);
    const Reference expected = reference(tensor, bias, x, 130);
    for (const std::string_view isa : packed_isas()) {
      const PackedLinear linear(tensor, bias, 1, isa);
      for (const std::uint64_t tokens : kBatches) {
        CAPTURE(item.name, isa, tokens, linear.has_int8_kernel());
        const auto y =
            run_packed(linear, std::span(x).first(tokens * cols), tokens, {.activations = Activations::int8});
        CHECK(worst_error(y, expected, sum_roundings(cols)) <= 1.0);
      }
    }
  }
}

// Rounding moves an input by half a step of its scale at most: the largest magnitude / 127 / 2.
TEST_CASE("8 bits cost no more than half a step", "[packed]") {
  for (const PackedCase& item : integer_cases()) {
    const std::uint64_t rows = 20, cols = 257, tokens = 9;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 6);
    const std::vector<float> x = Randomizer(4).normals(tokens * cols);
    const Reference expected = reference(tensor, {}, x, tokens);
    const Reference weights = reference(tensor, {}, std::vector<float>(cols, 1.0F), 1);
    std::vector<double> allowed(tokens * rows);
    for (std::uint64_t t = 0; t < tokens; ++t) {
      double largest = 0;
      for (std::uint64_t c = 0; c < cols; ++c)
        largest = std::max(largest, std::abs(static_cast<double>(x[t * cols + c])));
      for (std::uint64_t r = 0; r < rows; ++r) allowed[t * rows + r] = weights.magnitude[r] * largest / 253.9;
    }
    for (const std::string_view isa : packed_isas()) {
      const PackedLinear linear(tensor, {}, 1, isa);
      CAPTURE(item.name, isa);
      const auto y = run_packed(linear, x, tokens, {.activations = Activations::int8});
      CHECK(worst_error(y, expected, sum_roundings(cols), allowed) <= 1.0);
      const bool rounded = worst_error(y, expected, sum_roundings(cols)) > 1.0;
      CHECK(rounded == linear.has_int8_kernel());
    }
  }
}

TEST_CASE("a scheme's 8-bit inputs are multiplied as integers", "[packed]") {
  for (const PackedCase& item : integer_cases()) {
    const std::uint64_t rows = 37, cols = 300;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 8);
    const std::vector<float> x = Randomizer(9).normals(64 * cols);
    for (const InputQuantizer& quantizer :
         {int8_inputs(Strategy::token, 0), int8_inputs(Strategy::tensor, 0.03F), int8_inputs(Strategy::tensor, 0)}) {
      for (const std::uint64_t tokens : {1, 3, 64}) {
        std::vector<float> rounded(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(tokens * cols));
        fake_quantize_rows(rounded, tokens, quantizer, 1);
        const Reference expected = reference(tensor, {}, rounded, tokens);
        for (const std::string_view isa : packed_isas()) {
          const PackedLinear linear(tensor, {}, 1, isa);
          for (const Activations kind : {Activations::f32, Activations::int8}) {
            CAPTURE(item.name, isa, tokens, static_cast<int>(kind));
            const auto y = run_packed(linear, std::span(x).first(tokens * cols), tokens,
                                      {.activations = kind, .input = &quantizer});
            CHECK(worst_error(y, expected, sum_roundings(cols)) <= 1.0);
          }
        }
      }
    }
  }
}

TEST_CASE("inputs that are no numbers give none", "[packed]") {
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::group, 128, true), 20, 256, 2);
  std::vector<float> x(3 * 256, 0.0F);
  x[256 + 9] = std::numeric_limits<float>::quiet_NaN();
  x[512 + 200] = std::numeric_limits<float>::infinity();
  const InputQuantizer quantizer = int8_inputs(Strategy::token, 0);
  for (const std::string_view isa : packed_isas()) {
    const PackedLinear linear(tensor, {}, 1, isa);
    for (const InputQuantizer* input : {static_cast<const InputQuantizer*>(nullptr), &quantizer}) {
      for (const Activations kind : {Activations::f32, Activations::bf16, Activations::int8}) {
        const auto y = run_packed(linear, x, 3, {.activations = kind, .input = input});
        for (std::size_t i = 0; i < y.size(); ++i) {
          CAPTURE(isa, i, static_cast<int>(kind), input == nullptr);
          if (i < 20) CHECK(y[i] == 0.0F);
          if (i >= 20) CHECK(!std::isfinite(y[i]));
        }
      }
    }
  }
}
