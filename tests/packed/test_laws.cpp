// What holds whatever the numbers: threads, batches, odd contents, wrong use.
#include "packed/packed_bytes.h"
#include "packed_cases.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

TEST_CASE("threads change no bit", "[packed]") {
  for (const PackedCase& item : packed_cases()) {
    const QuantizedTensor tensor = make_tensor(item, 600, 100, 1);
    const std::vector<float> x = Randomizer(2).normals(30 * 100);
    const PackedLinear linear(tensor), other(tensor, {}, 3);
    for (const std::uint64_t tokens : {1, 6, 30}) {
      for (const Activations kind : {Activations::f32, Activations::bf16, Activations::int8}) {
        CAPTURE(item.name, tokens, static_cast<int>(kind));
        const auto part = std::span(x).first(tokens * 100);
        const auto one = run_packed(linear, part, tokens, {.activations = kind, .threads = 1});
        for (const int threads : {2, 3, 5}) {
          CHECK(one == run_packed(other, part, tokens, {.activations = kind, .threads = threads}));
        }
      }
    }
  }
}

TEST_CASE("how tokens are divided into calls changes no bit", "[packed]") {
  constexpr std::uint64_t kTokens = 520, kCols = 70, kRows = 40;
  for (const PackedCase& item : packed_cases()) {
    const QuantizedTensor tensor = make_tensor(item, kRows, kCols, 1);
    const std::vector<float> x = Randomizer(2).normals(kTokens * kCols);
    for (const std::string_view isa : packed_isas()) {
      const PackedLinear linear(tensor, {}, 1, isa);
      for (const Activations kind : {Activations::f32, Activations::bf16, Activations::int8}) {
        const auto whole = run_packed(linear, x, kTokens, {.activations = kind});
        std::uint64_t first = 0;
        for (const std::uint64_t count : {2, 3, 4, 7, 16, 17, 300}) {
          CAPTURE(item.name, isa, count, static_cast<int>(kind));
          const auto y =
              run_packed(linear, std::span(x).subspan(first * kCols, count * kCols), count, {.activations = kind});
          CHECK(std::equal(y.begin(), y.end(), whole.begin() + static_cast<std::ptrdiff_t>(first * kRows)));
          first += count;
        }
      }
    }
  }
}

TEST_CASE("what a packed matrix takes is known from its scheme", "[packed]") {
  for (PackedCase item : packed_cases()) {
    // Of sparse entries the scheme names the number.
    if (item.sparse_percent > 0) item.args.outlier_percent = 100;
    for (const auto& [rows, cols] : {std::pair<std::uint64_t, std::uint64_t>{1, 1}, {40, 70}, {64, 640}, {700, 2048}}) {
      CAPTURE(item.name, rows, cols);
      if (item.args.strategy == Strategy::flat && rows * cols == 1) continue;
      const QuantizedTensor tensor = make_tensor(item, rows, cols, 5);
      const PackedLinear linear(tensor);
      const DType wide = item.args.scale_dtype.value_or(DType::F32);
      const auto most = packed::packed_bytes(item.args, wide, rows, cols);
      REQUIRE(most.has_value() == linear.has_kernel());
      if (!most) continue;
      CHECK(*most >= linear.bytes());
      // Scales that fit 16 bits, sparse parts, and whole pages make it less.
      if (item.sparse_percent == 0) CHECK(*most <= 2 * linear.bytes() + (8U << 20U));
      const std::uint64_t held = tensor.codes.size() + 4 * (tensor.scales.size() + tensor.real_zero_points.size()) +
                                 tensor.zero_points.size() + 4 * tensor.codebook.size() +
                                 8 * (tensor.sparse.starts.size() + tensor.sparse.values.size()) +
                                 4 * tensor.group_index.size();
      CHECK(packed::unpacked_codes_bytes(item.args, rows, cols) >= held);
    }
  }
}

TEST_CASE("contents that no kernel reads are dequantized", "[packed]") {
  PackedCase item = float_case(8, Strategy::channel, 0);
  QuantizedTensor tensor = make_tensor(item, 20, 40, 3);
  tensor.codes[5] = 0x7F;  // NaN
  const PackedLinear with_nan(tensor);
  CHECK_FALSE(with_nan.has_kernel());
  const std::vector<float> x(40, 1.0F);
  const auto y = run_packed(with_nan, x, 1);
  CHECK(std::isnan(y[0]));
  CHECK(std::isfinite(y[1]));

  tensor = make_tensor(integer_case(8, Strategy::channel, 0, true), 20, 40, 3);
  tensor.scales[2] = 1e-38F;
  tensor.scales[3] = std::numeric_limits<float>::infinity();
  const PackedLinear tiny(tensor);
  CHECK_FALSE(tiny.has_kernel());
  CHECK(std::isfinite(run_packed(tiny, x, 1)[2]));
  CHECK_FALSE(std::isfinite(run_packed(tiny, x, 1)[3]));
}

TEST_CASE("packed weights take the bits that they have", "[packed]") {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const PackedLinear linear(make_tensor(integer_case(bits, Strategy::group, 128, true), 64, 1024, 1));
    const std::uint64_t codes = 64 * 1024 * static_cast<std::uint64_t>(bits) / 8, scales = 64 * 8;
    CHECK(linear.bytes() >= codes + 2 * scales);
    CHECK(linear.bytes() <= codes + 4 * scales);
  }
}

TEST_CASE("no rows, no columns, no tokens", "[packed]") {
  const PackedCase item = integer_case(4, Strategy::channel, 0, true);
  const PackedLinear empty(make_tensor(item, 0, 8, 1));
  CHECK(run_packed(empty, std::vector<float>(16), 2).empty());
  const PackedLinear no_columns(make_tensor(item, 2, 0, 1), std::vector<float>{3, 4});
  CHECK(run_packed(no_columns, {}, 2) == std::vector<float>{3, 4, 3, 4});
  const PackedLinear linear(make_tensor(item, 3, 8, 1));
  CHECK(run_packed(linear, {}, 0).empty());
}

TEST_CASE("arrays that do not fit together are refused before they are read", "[packed]") {
  const auto refused = [](QuantizedTensor tensor, auto damage, const char* part) {
    damage(tensor);
    CHECK_THROWS_WITH(PackedLinear(tensor), Catch::Contains(part));
  };
  const QuantizedTensor integers = make_tensor(integer_case(4, Strategy::group, 32, false), 5, 64, 1);
  refused(
      integers, [](QuantizedTensor& t) { t.codes.pop_back(); }, "319 codes where 320");
  refused(
      integers, [](QuantizedTensor& t) { t.scales.pop_back(); }, "9 scales where 10");
  refused(
      integers, [](QuantizedTensor& t) { t.zero_points.clear(); }, "0 zero points");
  refused(
      integers, [](QuantizedTensor& t) { t.real_zero_points.resize(10); }, "10 real zero points");
  refused(
      integers, [](QuantizedTensor& t) { t.group_index.assign(63, 0); }, "63 group indices");
  refused(
      integers, [](QuantizedTensor& t) { t.group_index.assign(64, -1); }, "group index of a quantized tensor is -1");
  refused(
      integers, [](QuantizedTensor& t) { t.group_index.assign(64, 2); }, "is 2 where there are 2 groups");
  refused(
      integers, [](QuantizedTensor& t) { t.grid.col_extent = 16; }, "grid");
  const auto sparse = [](QuantizedTensor& t) {
    t.sparse.starts = {0, 1, 1, 1, 1, 2};
    t.sparse.columns = {3, 63};
    t.sparse.values = {1, 2};
  };
  QuantizedTensor apart = integers;
  sparse(apart);
  CHECK(PackedLinear(apart).has_kernel());
  refused(
      apart, [](QuantizedTensor& t) { t.sparse.starts.pop_back(); }, "5 sparse starts where 6");
  refused(
      apart, [](QuantizedTensor& t) { t.sparse.columns.pop_back(); }, "1 sparse columns where 2");
  refused(
      apart, [](QuantizedTensor& t) { t.sparse.starts[2] = 9; }, "do not ascend");
  refused(
      apart, [](QuantizedTensor& t) { t.sparse.columns[1] = 64; }, "column 64 of 64");
}

TEST_CASE("wrong use is named", "[packed]") {
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::channel, 0, true), 3, 8, 1);
  const std::vector<float> short_bias(2);
  CHECK_THROWS_AS(PackedLinear(tensor, short_bias), Error);
  CHECK_THROWS_WITH(PackedLinear(tensor, {}, 1, "mmx"), Catch::Contains("mmx"));
  const PackedLinear linear(tensor);
  std::vector<float> y(3);
  CHECK_THROWS_AS(linear.multiply(std::vector<float>(7), 1, y, {}), Error);
  CHECK_THROWS_AS(linear.multiply(std::vector<float>(8), 1, std::span(y).first(2), {}), Error);
}
