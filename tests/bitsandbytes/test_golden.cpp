// Equal bytes: what bitsandbytes' quantize_4bit makes of golden weights (make_golden.py), and its own values read back.
#include <cmath>
#include <fstream>

#include "native_layout/support.h"
#include "quant/codebook.h"
#include "support/catch.h"
#include "support/golden.h"

using namespace quant;
using namespace quant::test;

namespace {

struct Case {
  Codebook codebook;
  std::int64_t block;
  bool nested;
};
constexpr Case kCases[] = {{Codebook::nf4, 64, false},   {Codebook::nf4, 32, true},  {Codebook::nf4, 32, true},
                           {Codebook::nf4, 256, false},  {Codebook::fp4, 64, false}, {Codebook::fp4, 128, true},
                           {Codebook::nf4, 4096, false}, {Codebook::fp4, 512, false}};

const GoldenFile& golden() {
  static const GoldenFile file(QUANT_SOURCE_DIR "/tests/bitsandbytes/golden/bitsandbytes.safetensors");
  return file;
}

std::string state_name(const Case& item) {
  return ".weight.quant_state.bitsandbytes__" + std::string(to_string(item.codebook));
}

std::vector<std::string> parts(const Case& item) {
  std::vector<std::string> list = {".weight", ".weight.absmax", ".weight.quant_map"};
  if (item.nested) list.insert(list.end(), {".weight.nested_absmax", ".weight.nested_quant_map"});
  return list;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Floats equal but for the last bits: the mean of scales is added up in another order there.
bool nearly_same(std::span<const std::byte> a, std::span<const std::byte> b) {
  for (std::size_t i = 0; i + 4 <= a.size(); i += 4) {
    float x = 0, y = 0;
    std::memcpy(&x, a.data() + i, 4), std::memcpy(&y, b.data() + i, 4);
    if (std::fabs(x - y) > 1e-6F * std::fabs(y)) return false;
  }
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("weights are coded and stored as bitsandbytes stores them, byte by byte") {
  const Layout& layout = layout_named("bitsandbytes");
  for (std::size_t number = 0; number < std::size(kCases); ++number) {
    const Case& item = kCases[number];
    const std::string name = std::to_string(number);
    const TensorView& original = golden().tensor(name + ".original");
    QuantArgs args = codebook_args(item.codebook, 4, Strategy::flat, item.block);
    args.double_quant = item.nested;
    Scheme scheme;
    scheme.weights = args;
    const LinearShape linear{name, original.shape[0], original.shape[1], original.dtype};
    INFO("case " << name);
    REQUIRE(!layout.unsupported(scheme, linear));
    const QuantizedTensor coded = codebook_quantize(original, args);
    const auto list = layout.stored(scheme, linear);
    const CountingSink sink = store(layout, scheme, linear, coded);
    CHECK(sink.complete());
    REQUIRE(list.size() == parts(item).size() + 1);
    for (std::size_t i = 0; i < list.size(); ++i) {
      INFO(list[i].name);
      REQUIRE(golden().has(list[i].name));
      const auto expected = golden().tensor(list[i].name).bytes;
      if (list[i].name.find("quant_state") != std::string::npos) {
        const auto ours = nlohmann::ordered_json::parse(text_of(sink.bytes[i]));
        auto theirs = nlohmann::ordered_json::parse(text_of(expected));
        if (item.nested) {
          CHECK(ours["nested_offset"].get<double>() == Approx(theirs["nested_offset"].get<double>()).epsilon(1e-6));
          theirs["nested_offset"] = ours["nested_offset"];
        } else {
          CHECK(text_of(sink.bytes[i]) == text_of(expected));
        }
        CHECK(ours == theirs);
      } else if (item.nested && list[i].dtype == DType::F32) {
        CHECK(nearly_same(sink.bytes[i], expected));
      } else {
        const bool same = std::equal(expected.begin(), expected.end(), sink.bytes[i].begin(), sink.bytes[i].end());
        CHECK(same);
      }
    }
  }
}

TEST_CASE("checkpoints of bitsandbytes are read to the values that it computes") {
  const Layout& layout = layout_named("bitsandbytes");
  MemoryCheckpoint checkpoint;
  for (std::size_t number = 0; number < std::size(kCases); ++number) {
    const std::string name = std::to_string(number);
    auto list = parts(kCases[number]);
    list.push_back(state_name(kCases[number]));
    for (const std::string& part : list) checkpoint.set(name + part, golden().tensor(name + part));
  }
  checkpoint.mutable_config().quantization_config = R"({"quant_method": "bitsandbytes", "load_in_4bit": true})";
  REQUIRE(layout.recognizes(checkpoint.config()));
  const auto linears = layout.find_linears(checkpoint);
  REQUIRE(linears.size() == std::size(kCases));
  for (const StoredLinear& linear : linears) {
    INFO("case " << linear.shape.module);
    const TensorView& expected = golden().tensor(linear.shape.module + ".dequantized");
    std::vector<float> wanted(element_count(expected.shape));
    read_f32(expected, 0, wanted);
    // bitsandbytes rounds to the weight's type at the end.
    std::size_t wrong = 0;
    QuantizedTensor rows;
    std::vector<float> row(linear.shape.cols);
    const std::uint64_t step = layout.read_alignment(linear);
    for (std::uint64_t first = 0; first < linear.shape.rows; first += step) {
      const std::uint64_t count = std::min(step, linear.shape.rows - first);
      layout.read_rows(checkpoint, linear, first, count, rows);
      for (std::uint64_t r = 0; r < count; ++r) {
        dequantize_row(rows, r, row);
        for (std::uint64_t c = 0; c < row.size(); ++c) {
          const float value = round_to_dtype(linear.shape.dtype, row[c]);
          const float target = wanted[(first + r) * row.size() + c];
          wrong += std::fabs(value - target) > 1e-6F * std::fabs(target) ? 1 : 0;
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("error figures of the reference tests are reproduced to 1e-3") {
  // bitsandbytes, tests/test_functional.py: mean |error| and mean relative error of normal weights.
  struct Figure {
    Codebook codebook;
    std::int64_t block;
    double absolute, relative;
  };
  constexpr Figure kFigures[] = {
      {Codebook::nf4, 32, .067746, .1897},  {Codebook::nf4, 64, .072798, .2033},  {Codebook::nf4, 128, .076831, .2152},
      {Codebook::nf4, 256, .080337, .2261}, {Codebook::nf4, 512, .083547, 0},     {Codebook::nf4, 1024, .086610, 0},
      {Codebook::nf4, 2048, .089592, 0},    {Codebook::nf4, 4096, .092547, 0},    {Codebook::fp4, 32, .088925, .2424},
      {Codebook::fp4, 64, .096543, .2601},  {Codebook::fp4, 128, .102969, .2758}, {Codebook::fp4, 256, .108684, 0},
      {Codebook::fp4, 4096, .129536, 0}};
  constexpr std::uint64_t kSize = 1024;
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  std::vector<float> weight(kSize * kSize), row(kSize);
  for (float& w : weight) w = normal(random);
  for (const Figure& figure : kFigures) {
    const auto coded = codebook_quantize(f32_view(weight, kSize, kSize),
                                         codebook_args(figure.codebook, 4, Strategy::flat, figure.block));
    double absolute = 0, relative = 0;
    for (std::uint64_t r = 0; r < kSize; ++r) {
      dequantize_row(coded, r, row);
      for (std::uint64_t c = 0; c < kSize; ++c) {
        const double w = static_cast<double>(weight[r * kSize + c]);
        const double error = std::fabs(w - static_cast<double>(row[c]));
        absolute += error;
        relative += error / (std::fabs(w) + 1e-8);
      }
    }
    INFO(to_string(figure.codebook) << " blocks of " << figure.block);
    CHECK(std::fabs(absolute / (kSize * kSize) - figure.absolute) < 1e-3);
    if (figure.relative > 0) CHECK(std::fabs(relative / (kSize * kSize) - figure.relative) < 1e-3);
  }
}
