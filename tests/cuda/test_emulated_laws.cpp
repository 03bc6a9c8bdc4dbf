// What holds whatever the numbers: which kernel runs, batches, odd contents, memory.
#include <cmath>

#include "cuda/device_linear.h"
#include "emulated_backend.h"
#include "packed/packed_cases.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

std::vector<float> run_on(const cuda::DeviceLinear& linear, std::span<const float> x, std::uint64_t tokens,
                          const PackedOptions& options = {}) {
  std::vector<float> y(tokens * linear.rows(), -1e30F);
  linear.multiply(x.data(), tokens, y.data(), options, nullptr);
  return y;
}

}  // namespace

TEST_CASE("the codecs of practice have tuned kernels", "[cuda]") {
  EmulatedBackend backend;
  for (const PackedCase& item : packed_cases()) {
    const bool other_tables =
        has_learned_codebook(item.args) && (item.args.strategy != Strategy::tensor || item.args.num_bits > 4);
    const bool real_zeros = item.args.zp_dtype.has_value();
    const bool tiny_groups = item.args.group_size == 1 || item.args.group_size == 7;
    CAPTURE(item.name);
    const cuda::DeviceLinear linear(backend, make_tensor(item, 32, 256, 1), {}, true, 1);
    CHECK(linear.tuned() == (!other_tables && !real_zeros && !tiny_groups));
    CHECK(linear.bytes() > 0);
  }
}

TEST_CASE("the number of tokens chooses the kernel", "[cuda]") {
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::group, 128, true), 20, 256, 1);
  const std::vector<float> x = Randomizer(2).normals(70 * 256);
  EmulatedBackend backend, without_library(false);
  const cuda::DeviceLinear tuned(backend, tensor, {}, true, 1), plain(backend, tensor, {}, false, 1);
  const cuda::DeviceLinear alone(without_library, tensor, {}, true, 1);
  run_on(tuned, std::span(x).first(64 * 256), 64);
  CHECK((backend.tiles == 1 && backend.plain == 0 && backend.dense == 0));
  const auto dense = run_on(tuned, x, 70);
  CHECK((backend.tiles == 1 && backend.plain == 0 && backend.dense == 1));
  run_on(tuned, x, 70, {.activations = Activations::int8});
  CHECK((backend.tiles == 2 && backend.plain == 0 && backend.dense == 1));
  run_on(plain, std::span(x).first(16 * 256), 16);
  CHECK((backend.tiles == 2 && backend.plain == 1 && backend.dense == 1));
  const auto tiles = run_on(alone, x, 70);
  CHECK((without_library.tiles == 1 && without_library.dense == 0));
  const Reference expected = reference(tensor, {}, x, 70);
  CHECK(worst_error(dense, expected, sum_roundings(256)) <= 1.0);
  CHECK(worst_error(tiles, expected, sum_roundings(256)) <= 1.0);
}

TEST_CASE("how tokens are divided into products changes no bit", "[cuda]") {
  constexpr std::uint64_t kTokens = 33, kCols = 2176, kRows = 20;
  for (const PackedCase& item :
       {integer_case(4, Strategy::group, 128, false), integer_case(8, Strategy::channel, 0, true),
        float_case(8, Strategy::channel, 0), codebook_case(4, Strategy::flat, 64, Codebook::nf4)}) {
    const QuantizedTensor tensor = make_tensor(item, kRows, kCols, 1);
    const std::vector<float> x = Randomizer(2).normals(kTokens * kCols);
    EmulatedBackend backend;
    const cuda::DeviceLinear linear(backend, tensor, {}, true, 1);
    for (const Activations kind : {Activations::f32, Activations::bf16, Activations::int8}) {
      const auto whole = run_on(linear, x, kTokens, {.activations = kind});
      std::uint64_t first = 0;
      for (const std::uint64_t count : {2, 3, 4, 7, 17}) {
        CAPTURE(item.name, count, static_cast<int>(kind));
        const auto y = run_on(linear, std::span(x).subspan(first * kCols, count * kCols), count, {.activations = kind});
        CHECK(std::equal(y.begin(), y.end(), whole.begin() + static_cast<std::ptrdiff_t>(first * kRows)));
        first += count;
      }
    }
  }
}

TEST_CASE("inputs that are no numbers give none on a device", "[cuda]") {
  InputQuantizer quantizer;
  quantizer.args.strategy = Strategy::token;
  std::vector<float> x(3 * 256, 0.0F);
  x[256 + 9] = std::numeric_limits<float>::quiet_NaN();
  x[512 + 200] = std::numeric_limits<float>::infinity();
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::group, 128, true), 20, 256, 2);
  for (const bool tuned : {false, true}) {
    EmulatedBackend backend;
    const cuda::DeviceLinear linear(backend, tensor, {}, tuned, 1);
    for (const InputQuantizer* input : {static_cast<const InputQuantizer*>(nullptr), &std::as_const(quantizer)}) {
      for (const Activations kind : {Activations::f32, Activations::bf16, Activations::int8}) {
        const auto y = run_on(linear, x, 3, {.activations = kind, .input = input});
        for (std::size_t i = 0; i < y.size(); ++i) {
          CAPTURE(tuned, i, static_cast<int>(kind), input == nullptr);
          if (i < 20) CHECK(y[i] == 0.0F);
          if (i >= 20) CHECK(!std::isfinite(y[i]));
        }
      }
    }
  }
}

TEST_CASE("contents that tiles do not hold go to the reference", "[cuda]") {
  QuantizedTensor tensor = make_tensor(float_case(8, Strategy::channel, 0), 20, 40, 3);
  tensor.codes[5] = 0x7F;  // NaN
  EmulatedBackend backend;
  const cuda::DeviceLinear linear(backend, tensor, {}, true, 1);
  CHECK_FALSE(linear.tuned());
  const auto y = run_on(linear, std::vector<float>(40, 1.0F), 1);
  CHECK(std::isnan(y[0]));
  CHECK(std::isfinite(y[1]));
  tensor = make_tensor(integer_case(3, Strategy::channel, 0, true), 20, 40, 3);
  tensor.codes[7] = 9;  // not of 3 bits, but dequantize_row reads it
  const cuda::DeviceLinear wide(backend, tensor, {}, false, 1);
  const std::vector<float> x = Randomizer(1).normals(40);
  CHECK(worst_error(run_on(wide, x, 1), reference(tensor, {}, x, 1), sum_roundings(40)) <= 1.0);
}

TEST_CASE("outlier columns stay float on a device", "[cuda]") {
  InputQuantizer quantizer;
  quantizer.args.strategy = Strategy::token;
  quantizer.args.outlier_threshold = 6.0;
  const QuantizedTensor tensor = make_tensor(integer_case(8, Strategy::channel, 0, true), 20, 130, 3);
  std::vector<float> x = Randomizer(1).normals(4 * 130);
  x[130 + 7] = 50.0F;
  std::vector<float> rounded = x;
  fake_quantize_rows(rounded, 4, quantizer, 1);
  EmulatedBackend backend;
  const cuda::DeviceLinear linear(backend, tensor, {}, true, 1);
  const auto y = run_on(linear, x, 4, {.activations = Activations::int8, .input = &quantizer});
  CHECK(worst_error(y, reference(tensor, {}, rounded, 4), sum_roundings(130)) <= 1.0);
}

TEST_CASE("device memory is what the codes take, and given back", "[cuda]") {
  EmulatedBackend backend;
  {
    for (const int bits : {2, 4, 8}) {
      const cuda::DeviceLinear linear(backend, make_tensor(integer_case(bits, Strategy::group, 128, true), 64, 1024, 1),
                                      {}, true, 1);
      const std::uint64_t codes = 64 * 1024 * static_cast<std::uint64_t>(bits) / 8, scales = 64 * 8;
      CHECK(linear.bytes() >= codes + 2 * scales);
      CHECK(linear.bytes() <= codes + 4 * scales);
      run_on(linear, std::vector<float>(9 * 1024, 1.0F), 9);
    }
    CHECK(backend.allocated() == 0);
    const cuda::DeviceLinear empty(backend, make_tensor(integer_case(4, Strategy::channel, 0, true), 0, 8, 1), {}, true,
                                   1);
    CHECK(run_on(empty, std::vector<float>(16), 2).empty());
    const cuda::DeviceLinear no_columns(backend, make_tensor(integer_case(4, Strategy::channel, 0, true), 2, 0, 1),
                                        std::vector<float>{3, 4}, true, 1);
    CHECK(run_on(no_columns, {}, 2) == std::vector<float>{3, 4, 3, 4});
  }
  CHECK(backend.allocated() == 0);
}
