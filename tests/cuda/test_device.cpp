// The same conformance as on processors, where there is a device.
#include "packed/packed_cases.h"
#include "quant/cuda_linear.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr std::uint64_t kBatches[] = {1, 2, 3, 5, 8, 17, 64, 130};
constexpr double kBf16Products = 2.0 * 0x1p-8 + 0x1p-16;

bool has_device() {
  if (!cuda_devices().empty()) return true;
  WARN("skipped: no CUDA device");
  return false;
}

std::vector<float> run_cuda(const CudaLinear& linear, std::span<const float> x, std::uint64_t tokens,
                            const PackedOptions& options = {}) {
  std::vector<float> y(tokens * linear.rows(), -1e30F);
  linear.multiply(x, tokens, y, options);
  return y;
}

// Tensor cores cut sums off: twice the bound of rounded ones.
double device_roundings(std::uint64_t n) { return 2 * sum_roundings(n); }

void check_case(const PackedCase& item, std::uint64_t rows, std::uint64_t cols,
                std::span<const std::uint64_t> batches) {
  const QuantizedTensor tensor = make_tensor(item, rows, cols, static_cast<unsigned>(rows * 131 + cols));
  Randomizer random(7);
  const std::vector<float> bias = random.normals(rows);
  const std::vector<float> x = random.normals(batches.back() * cols);
  const Reference expected = reference(tensor, bias, x, batches.back());
  for (const std::string_view kernels : cuda_kernels()) {
    const CudaLinear linear(tensor, bias, {.kernels = kernels});
    for (const std::uint64_t tokens : batches) {
      CAPTURE(item.name, rows, cols, kernels, tokens, linear.has_tuned_kernel());
      const auto part = std::span(x).first(tokens * cols);
      Reference first = expected;
      first.y.resize(tokens * rows);
      const auto y = run_cuda(linear, part, tokens);
      CHECK(worst_error(y, first, device_roundings(cols)) <= 1.0);
      CHECK(y == run_cuda(linear, part, tokens));
      const auto rounded = run_cuda(linear, part, tokens, {.activations = Activations::bf16});
      CHECK(worst_error(rounded, first, device_roundings(cols) + kBf16Products) <= 1.0);
    }
  }
}

}  // namespace

TEST_CASE("every codec's product on a device is that of its dequantized weights", "[cuda]") {
  if (!has_device()) return;
  for (const PackedCase& item : packed_cases()) check_case(item, 37, 200, kBatches);
}

TEST_CASE("sizes on a device need not be multiples of anything", "[cuda]") {
  if (!has_device()) return;
  constexpr std::uint64_t kFew[] = {1, 3, 18, 70};
  constexpr std::uint64_t kShapes[][2] = {{1, 1},   {1, 31},   {3, 33},    {16, 16},
                                          {33, 97}, {65, 129}, {18, 4500}, {40, 4096}};
  for (const PackedCase& item : packed_cases()) {
    for (const auto& shape : kShapes) check_case(item, shape[0], shape[1], kFew);
  }
}

TEST_CASE("a scheme's 8-bit inputs are multiplied as integers on a device", "[cuda]") {
  if (!has_device()) return;
  InputQuantizer quantizer;
  quantizer.args.strategy = Strategy::token;
  for (const PackedCase& item : packed_cases()) {
    if (item.args.type != NumberType::integer) continue;
    const std::uint64_t rows = 37, cols = 300;
    const QuantizedTensor tensor = make_tensor(item, rows, cols, 8);
    const std::vector<float> x = Randomizer(9).normals(64 * cols);
    for (const std::uint64_t tokens : {1, 3, 64}) {
      std::vector<float> rounded(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(tokens * cols));
      fake_quantize_rows(rounded, tokens, quantizer, 1);
      const Reference expected = reference(tensor, {}, rounded, tokens);
      for (const std::string_view kernels : cuda_kernels()) {
        const CudaLinear linear(tensor, {}, {.kernels = kernels});
        for (const Activations kind : {Activations::f32, Activations::int8}) {
          CAPTURE(item.name, kernels, tokens, static_cast<int>(kind));
          const auto y =
              run_cuda(linear, std::span(x).first(tokens * cols), tokens, {.activations = kind, .input = &quantizer});
          CHECK(worst_error(y, expected, device_roundings(cols)) <= 1.0);
        }
      }
    }
  }
}
