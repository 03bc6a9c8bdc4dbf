// Products with float inputs, of every codec, on every instruction set, against float64.
#include "packed_cases.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr std::uint64_t kBatches[] = {1, 2, 3, 5, 8, 17, 64, 130};
constexpr double kBf16Products = 2.0 * 0x1p-8 + 0x1p-16;  // both operands rounded to 8 bits

void check_case(const PackedCase& item, std::uint64_t rows, std::uint64_t cols,
                std::span<const std::uint64_t> batches) {
  const QuantizedTensor tensor = make_tensor(item, rows, cols, static_cast<unsigned>(rows * 131 + cols));
  Randomizer random(7);
  const std::vector<float> bias = random.normals(rows);
  const std::uint64_t most = batches.back();
  const std::vector<float> x = random.normals(most * cols);
  const Reference expected = reference(tensor, bias, x, most);
  for (const std::string_view isa : packed_isas()) {
    const PackedLinear linear(tensor, bias, 1, isa);
    REQUIRE(linear.isa() == isa);
    for (const std::uint64_t tokens : batches) {
      CAPTURE(item.name, rows, cols, isa, tokens, linear.has_kernel());
      const auto part = std::span(x).first(tokens * cols);
      Reference first = expected;
      first.y.resize(tokens * rows);
      const std::vector<float> y = run_packed(linear, part, tokens);
      CHECK(worst_error(y, first, sum_roundings(cols)) <= 1.0);
      const std::vector<float> rounded = run_packed(linear, part, tokens, {.activations = Activations::bf16});
      CHECK(worst_error(rounded, first, sum_roundings(cols) + kBf16Products) <= 1.0);
      if (tokens == 17) CHECK(worst_error(rounded, first, sum_roundings(cols)) > 1.0 / 64);  // it was rounded
    }
  }
}

}  // namespace

TEST_CASE("every codec's product is that of its dequantized weights", "[packed]") {
  for (const PackedCase& item : packed_cases()) check_case(item, 37, 200, kBatches);
}

TEST_CASE("sizes need not be multiples of anything", "[packed]") {
  constexpr std::uint64_t kFew[] = {1, 3, 18};
  constexpr std::uint64_t kShapes[][2] = {{1, 1}, {1, 31}, {3, 33}, {16, 16}, {31, 64}, {33, 97}, {65, 129}};
  for (const PackedCase& item : packed_cases()) {
    for (const auto& shape : kShapes) {
      check_case(item, shape[0], shape[1], kFew);
    }
  }
}

TEST_CASE("long rows are summed in several panels", "[packed]") {
  constexpr std::uint64_t kTokens[] = {1, 4, 20};
  for (const PackedCase& item : packed_cases()) {
    if (item.args.num_bits == 4 || item.args.num_bits == 8) check_case(item, 18, 4500, kTokens);
  }
}

TEST_CASE("the codecs of practice have kernels", "[packed]") {
  for (const PackedCase& item : packed_cases()) {
    const bool tiny_groups = item.args.group_size == 1 || item.args.group_size == 7 ||
                             (has_learned_codebook(item.args) && item.args.group_size == 16);
    CAPTURE(item.name);
    const PackedLinear linear(make_tensor(item, 32, 256, 1));
    CHECK(linear.has_kernel() == !tiny_groups);
    CHECK(linear.bytes() > 0);
  }
}

TEST_CASE("tables of 256 values are as wide as their values need", "[packed]") {
  for (const std::int64_t group : {0, 64, 512}) {
    const Strategy strategy = group == 0 ? Strategy::channel : Strategy::group;
    QuantizedTensor wide = make_tensor(codebook_case(8, strategy, group, Codebook::learned), 37, 1100, 4);
    for (float& value : wide.codebook) value *= 0.7390851F;  // float32 alone holds these
    QuantizedTensor bf16 = wide, f16 = wide;
    for (float& value : bf16.codebook) value = bf16_to_f32(f32_to_bf16(value));
    for (float& value : f16.codebook) value = f16_to_f32(f32_to_f16(value * 0x1p-9F));  // some below the normal ones
    const std::vector<float> x = Randomizer(3).normals(20 * 1100);
    for (const std::string_view isa : packed_isas()) {
      const std::uint64_t bytes = PackedLinear(wide, {}, 1, isa).bytes();
      for (const QuantizedTensor* tensor : {&bf16, &f16}) {
        const PackedLinear linear(*tensor, {}, 1, isa);
        CAPTURE(group, isa, tensor == &bf16);
        CHECK((linear.bytes() < bytes) == (isa == "avx512_vnni"));
        for (const std::uint64_t tokens : {1, 20}) {
          const auto part = std::span(x).first(tokens * 1100);
          CHECK(worst_error(run_packed(linear, part, tokens), reference(*tensor, {}, part, tokens),
                            sum_roundings(1100)) <= 1.0);
        }
      }
    }
  }
}
