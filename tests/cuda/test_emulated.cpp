// The kernels' bodies, run on the processor, against float64.
#include "cuda/device_linear.h"
#include "emulated_backend.h"
#include "packed/packed_cases.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr double kBf16Products = 2.0 * 0x1p-8 + 0x1p-16;  // both operands rounded to 8 bits

std::vector<float> run_on(const cuda::DeviceLinear& linear, std::span<const float> x, std::uint64_t tokens,
                          const PackedOptions& options = {}) {
  std::vector<float> y(tokens * linear.rows(), -1e30F);
  linear.multiply(x.data(), tokens, y.data(), options, nullptr);
  return y;
}

void check_case(const PackedCase& item, std::uint64_t rows, std::uint64_t cols,
                std::span<const std::uint64_t> batches) {
  const QuantizedTensor tensor = make_tensor(item, rows, cols, static_cast<unsigned>(rows * 131 + cols));
  Randomizer random(7);
  const std::vector<float> bias = random.normals(rows);
  const std::uint64_t most = batches.back();
  const std::vector<float> x = random.normals(most * cols);
  const Reference expected = reference(tensor, bias, x, most);
  for (const bool tuned : {false, true}) {
    EmulatedBackend backend;
    const cuda::DeviceLinear linear(backend, tensor, bias, tuned, 1);
    for (const std::uint64_t tokens : batches) {
      CAPTURE(item.name, rows, cols, tuned, linear.tuned(), tokens);
      const auto part = std::span(x).first(tokens * cols);
      Reference first = expected;
      first.y.resize(tokens * rows);
      CHECK(worst_error(run_on(linear, part, tokens), first, sum_roundings(cols)) <= 1.0);
      const auto rounded = run_on(linear, part, tokens, {.activations = Activations::bf16});
      CHECK(worst_error(rounded, first, sum_roundings(cols) + kBf16Products) <= 1.0);
      if (tokens == 17) CHECK(worst_error(rounded, first, sum_roundings(cols)) > 1.0 / 64);  // it was rounded
    }
  }
}

}  // namespace

TEST_CASE("every codec's kernels give the product of its dequantized weights", "[cuda]") {
  constexpr std::uint64_t kBatches[] = {1, 2, 3, 5, 8, 17, 65};
  for (const PackedCase& item : packed_cases()) check_case(item, 37, 200, kBatches);
}

TEST_CASE("kernels take sizes that are multiples of nothing", "[cuda]") {
  constexpr std::uint64_t kFew[] = {1, 3, 18};
  constexpr std::uint64_t kShapes[][2] = {{1, 1}, {1, 31}, {3, 33}, {16, 16}, {33, 97}, {65, 129}};
  for (const PackedCase& item : packed_cases()) {
    for (const auto& shape : kShapes) check_case(item, shape[0], shape[1], kFew);
  }
}

// Whole steps, so that few tokens are read as they are; and so many that few rows are divided into parts.
TEST_CASE("long rows are divided among blocks", "[cuda]") {
  constexpr std::uint64_t kFew[] = {1, 2, 17};
  for (const PackedCase& item : packed_cases()) {
    if (item.args.num_bits == 4 || item.args.num_bits == 8) check_case(item, 18, 2560, kFew);
  }
}

TEST_CASE("8-bit inputs are multiplied as integers", "[cuda]") {
  InputQuantizer per_token, fixed;
  per_token.args.strategy = Strategy::token;
  fixed.args.strategy = Strategy::tensor;
  fixed.scale = 0.03F;
  for (const PackedCase& item : packed_cases()) {
    if (item.args.type != NumberType::integer) continue;
    const std::uint64_t rows = 37, cols = 300;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 8);
    const std::vector<float> x = Randomizer(9).normals(20 * cols);
    const std::vector<float> bias = Randomizer(10).normals(rows);
    for (const InputQuantizer& quantizer : {per_token, fixed}) {
      for (const std::uint64_t tokens : {1, 3, 20}) {
        std::vector<float> rounded(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(tokens * cols));
        fake_quantize_rows(rounded, tokens, quantizer, 1);
        const Reference expected = reference(tensor, bias, rounded, tokens);
        for (const bool tuned : {false, true}) {
          EmulatedBackend backend;
          const cuda::DeviceLinear linear(backend, tensor, bias, tuned, 1);
          for (const Activations kind : {Activations::f32, Activations::int8}) {
            CAPTURE(item.name, tuned, tokens, static_cast<int>(kind), linear.int8());
            const PackedOptions options{.activations = kind, .input = &quantizer};
            CHECK(linear.host_quantizes(options) ==
                  (kind == Activations::f32 || !linear.int8() || item.sparse_percent > 0));
            const auto y = run_on(linear, std::span(x).first(tokens * cols), tokens, options);
            CHECK(worst_error(y, expected, sum_roundings(cols)) <= 1.0);
          }
        }
      }
    }
  }
}

// Rounding moves an input by half a step of its scale at most: the largest magnitude / 127 / 2.
TEST_CASE("8-bit inputs without a scheme cost half a step", "[cuda]") {
  for (const PackedCase& item : packed_cases()) {
    const std::uint64_t rows = 20, cols = 257, tokens = 9;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 6);
    const std::vector<float> x = Randomizer(4).normals(tokens * cols);
    const Reference expected = reference(tensor, {}, x, tokens);
    const Reference weights = reference(tensor, {}, std::vector<float>(cols, 1.0F), 1);
    std::vector<double> allowed(tokens * rows);
    for (std::uint64_t t = 0; t < tokens; ++t) {
      double largest = 0;
      for (std::uint64_t c = 0; c < cols; ++c) {
        largest = std::max(largest, std::abs(static_cast<double>(x[t * cols + c])));
      }
      for (std::uint64_t r = 0; r < rows; ++r) allowed[t * rows + r] = weights.magnitude[r] * largest / 253.9;
    }
    for (const bool tuned : {false, true}) {
      EmulatedBackend backend;
      const cuda::DeviceLinear linear(backend, tensor, {}, tuned, 1);
      CAPTURE(item.name, tuned);
      const auto y = run_on(linear, x, tokens, {.activations = Activations::int8});
      CHECK(worst_error(y, expected, sum_roundings(cols), allowed) <= 1.0);
      CHECK((worst_error(y, expected, sum_roundings(cols)) > 1.0) == linear.int8());
    }
  }
}
