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

TEST_CASE("columns that reach the threshold stay float beside integers", "[packed]") {
  InputQuantizer quantizer = int8_inputs(Strategy::token, 0);
  quantizer.args.observer_kwargs["symmetric_range"] = std::string("restricted");
  quantizer.args.outlier_threshold = 6.0;
  std::vector<PackedCase> cases = integer_cases();
  cases.push_back(integer_case(8, Strategy::group, 64, true));
  cases.back().args.observer_kwargs["symmetric_range"] = std::string("restricted");
  for (const PackedCase& item : cases) {
    const std::uint64_t rows = 37, cols = 300, most = 517;  // more than are taken at once
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 8);
    std::vector<float> x = Randomizer(9).normals(most * cols);
    for (std::uint64_t t = 0; t < most; ++t) {  // columns 5, 77 and 299 reach it in some tokens, 11 in the last alone
      if (t % 3 == 0) x[t * cols + 5] *= 40.0F;
      if (t % 7 == 0) x[t * cols + 77] = -6.0F;
      x[t * cols + 299] += t % 2 == 0 ? 20.0F : 0.0F;
    }
    x[(most - 1) * cols + 11] = 9.0F;
    for (const std::uint64_t tokens : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{7}, std::uint64_t{64}, most}) {
      if (tokens == most && item.args.num_bits != 8) continue;
      const auto part = std::span(x).first(tokens * cols);
      std::vector<float> rounded(part.begin(), part.end());
      fake_quantize_rows(rounded, tokens, quantizer, 1);
      REQUIRE(rounded[299] == x[299]);
      REQUIRE((rounded[11] == x[11]) == (tokens == most));
      const Reference expected = reference(tensor, {}, rounded, tokens);
      for (const std::string_view isa : packed_isas()) {
        const PackedLinear linear(tensor, {}, 1, isa);
        CAPTURE(item.name, isa, tokens, linear.has_int8_kernel());
        const PackedOptions options{.activations = Activations::int8, .input = &quantizer};
        const auto y = run_packed(linear, part, tokens, options);
        CHECK(worst_error(y, expected, sum_roundings(cols)) <= 1.0);
        if (tokens == 7) CHECK(y == run_packed(linear, part, tokens, {Activations::int8, 3, &quantizer}));
      }
    }
  }
}

TEST_CASE("tokens without outliers, of outliers alone, and without numbers", "[packed]") {
  InputQuantizer quantizer = int8_inputs(Strategy::token, 0);
  quantizer.args.outlier_threshold = 6.0;
  const std::uint64_t rows = 20, cols = 96, tokens = 4;
  const QuantizedTensor tensor = make_tensor(integer_case(8, Strategy::channel, 0, true), rows, cols, 3);
  std::vector<float> x = Randomizer(2).normals(tokens * cols);
  for (std::uint64_t c = 0; c < cols; ++c) x[cols + c] = 7.0F + static_cast<float>(c);
  x[2 * cols + 4] = std::numeric_limits<float>::infinity();
  x[3 * cols + 4] = std::numeric_limits<float>::quiet_NaN();
  for (const std::string_view isa : packed_isas()) {
    const PackedLinear linear(tensor, {}, 1, isa);
    const PackedOptions options{.activations = Activations::int8, .input = &quantizer};
    CAPTURE(isa);
    const auto small = run_packed(linear, std::span(x).first(cols), 1, options);
    InputQuantizer plain = quantizer;
    plain.args.outlier_threshold = 0;
    CHECK(small ==
          run_packed(linear, std::span(x).first(cols), 1, {.activations = Activations::int8, .input = &plain}));
    const auto large = run_packed(linear, std::span(x).subspan(cols, cols), 1, options);
    const Reference exact = reference(tensor, {}, std::span(x).subspan(cols, cols), 1);
    CHECK(worst_error(large, exact, sum_roundings(cols)) <= 1.0);
    const auto bad = run_packed(linear, std::span(x).subspan(2 * cols), 2, options);
    CHECK(std::ranges::all_of(bad, [](float value) { return std::isnan(value); }));
  }
}

TEST_CASE("ternary weights and signs lie in two bits and are multiplied as integers", "[packed]") {
  PackedCase ternary = integer_case(2, Strategy::tensor, 0, true);
  ternary.args.observer_kwargs["symmetric_range"] = std::string("restricted");
  PackedCase grouped = integer_case(2, Strategy::group, 128, true);
  grouped.args.observer_kwargs["symmetric_range"] = std::string("restricted");
  for (const PackedCase& item : {ternary, grouped}) {
    const std::uint64_t rows = 64, cols = 1024, tokens = 5;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 8);
    REQUIRE(*std::ranges::min_element(tensor.codes) == -1);
    REQUIRE(*std::ranges::max_element(tensor.codes) == 1);
    const std::vector<float> x = Randomizer(9).normals(tokens * cols);
    const InputQuantizer quantizer = int8_inputs(Strategy::token, 0);
    std::vector<float> rounded = x;
    fake_quantize_rows(rounded, tokens, quantizer, 1);
    for (const std::string_view isa : packed_isas()) {
      const PackedLinear linear(tensor, {}, 1, isa);
      CAPTURE(item.name, isa);
      CHECK(linear.has_int8_kernel());
      CHECK(linear.bytes() <= rows * cols / 4 + rows * tensor.grid.cols * 4);
      CHECK(worst_error(run_packed(linear, x, tokens), reference(tensor, {}, x, tokens), sum_roundings(cols)) <= 1.0);
      const auto y = run_packed(linear, x, tokens, {.activations = Activations::int8, .input = &quantizer});
      CHECK(worst_error(y, reference(tensor, {}, rounded, tokens), sum_roundings(cols)) <= 1.0);
    }
  }
  QuantArgs signs;
  signs.type = NumberType::codebook;
  signs.codebook = Codebook::sign;
  signs.num_bits = 1;
  signs.strategy = Strategy::channel;
  QuantizedTensor tensor;
  tensor.resize(signs, 64, 1024);
  for (std::size_t i = 0; i < tensor.codes.size(); ++i) tensor.codes[i] = static_cast<std::int8_t>(i * 7 % 11 % 2);
  std::ranges::fill(tensor.scales, 0.5F);
  const std::vector<float> x = Randomizer(4).normals(1024);
  for (const std::string_view isa : packed_isas()) {
    const PackedLinear linear(tensor, {}, 1, isa);
    CAPTURE(isa);
    CHECK(linear.has_kernel());
    CHECK(linear.bytes() <= 64 * 1024 / 4 + 64 * 4);
    CHECK(worst_error(run_packed(linear, x, 1), reference(tensor, {}, x, 1), sum_roundings(1024)) <= 1.0);
  }
}

TEST_CASE("inputs that are no numbers give none", "[packed]") {
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::group, 128, true), 20, 256, 2);
  std::vector<float> x(3 * 256, 0.0F);
  x[256 + 9] = std::numeric_limits<float>::quiet_NaN();
  x[512 + 200] = std::numeric_limits<float>::infinity();
  const InputQuantizer quantizer = int8_inputs(Strategy::token, 0);
  InputQuantizer fixed = int8_inputs(Strategy::tensor, 0);
  fixed.args.dynamic = Dynamic::no;
  fixed.scale = 0.1F;
  for (const std::string_view isa : packed_isas()) {
    const PackedLinear linear(tensor, {}, 1, isa);
    const auto by_fixed =
        run_packed(linear, std::span(x).first(512), 2, {.activations = Activations::int8, .input = &fixed});
    CHECK(std::all_of(by_fixed.begin() + 20, by_fixed.end(), [](float value) { return std::isnan(value); }));
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
