// 8-bit linears in the layout bitsandbytes: round trips, config.json, what it refuses, and damaged files.
#include <limits>

#include "native_layout/support.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using Json = nlohmann::json;

namespace {

const Layout& layout() { return layout_named("bitsandbytes"); }

QuantArgs int8(Strategy strategy) {
  QuantArgs args;
  args.strategy = strategy;
  args.observer_kwargs["symmetric_range"] = std::string("restricted");
  return args;
}

Scheme scheme(double threshold = 6.0) {
  Scheme result;
  result.targets = {"Linear"};
  result.weights = int8(Strategy::channel);
  result.input_activations = int8(Strategy::token);
  result.input_activations->dynamic = Dynamic::yes;
  result.input_activations->outlier_threshold = threshold;
  return result;
}

// Scales as they follow from largest magnitudes, of which some are awkward to divide by 127.
QuantizedTensor tensor(std::uint64_t rows, std::uint64_t cols, DType type) {
  std::mt19937 random(9);
  QuantizedTensor out;
  out.resize(int8(Strategy::channel), rows, cols);
  for (auto& code : out.codes) code = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
  for (auto& scale : out.scales) {
    scale = round_to_dtype(type, 0.01F + static_cast<float>(random() % 1000000) / 300000) / 127.0F;
  }
  return out;
}

MemoryCheckpoint valid(double threshold = 6.0, DType type = DType::F16) {
  const LinearShape linear{"m", 5, 12, type};
  const QuantizedTensor source = tensor(5, 12, type);
  MemoryCheckpoint checkpoint;
  const auto list = layout().stored(scheme(threshold), linear);
  const CountingSink sink = store(layout(), scheme(threshold), linear, source, 2);
  CHECK(sink.complete());
  for (std::size_t i = 0; i < list.size(); ++i) {
    checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
  }
  const std::string text = layout().config_json({}, {{"group_0", scheme(threshold), {linear}}}, {"lm_head"});
  checkpoint.mutable_config().quantization_config = Json::parse(text).at("quantization_config").dump();
  return checkpoint;
}

std::string error_of(const MemoryCheckpoint& checkpoint) { return read_error(layout(), checkpoint); }

}  // namespace

TEST_CASE("8-bit rows are read back bit by bit, and SCB is the largest magnitude") {
  for (const DType type : {DType::F16, DType::BF16, DType::F32}) {
    const MemoryCheckpoint checkpoint = valid(4.5, type);
    REQUIRE(layout().recognizes(checkpoint.config()));
    const auto linears = layout().find_linears(checkpoint);
    REQUIRE(linears.size() == 1);
    CHECK(linears[0].tensors.size() == 3);
    CHECK(linears[0].args == int8(Strategy::channel));
    REQUIRE(linears[0].input);
    CHECK(linears[0].input->args == scheme(4.5).input_activations);
    const QuantizedTensor source = tensor(5, 12, type);
    QuantizedTensor back;
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}}) {
      layout().read_rows(checkpoint, linears[0], first, 5 - first, back);
      const QuantizedTensor wanted = slice_of(source, first, 5 - first);
      CHECK(back.codes == wanted.codes);
      CHECK(back.scales == wanted.scales);
    }
    std::vector<float> scb(5);
    read_f32(checkpoint.view(*checkpoint.find("m.SCB")), 0, scb);
    for (std::size_t r = 0; r < 5; ++r) {
      CHECK(scb[r] / 127.0F == source.scales[r]);
      CHECK(round_to_dtype(type, scb[r]) == scb[r]);
    }
  }
  CHECK(valid().find("m.weight_format")->shape == Shape{});
}

TEST_CASE("config.json says what Transformers expects") {
  const Json config = Json::parse(valid(5.0).config().quantization_config);
  CHECK(config.at("quant_method") == "bitsandbytes");
  CHECK(config.at("load_in_8bit") == true);
  CHECK(config.at("load_in_4bit") == false);
  CHECK(config.at("llm_int8_threshold") == 5.0);
  CHECK(config.at("llm_int8_skip_modules") == Json({"lm_head"}));
  CHECK(config.at("llm_int8_has_fp16_weight") == false);
}

TEST_CASE("what Linear8bitLt has no place for is refused") {
  const LinearShape linear{"m", 8, 48, DType::F16};
  CHECK(!layout().unsupported(scheme(), linear));
  const auto reason = [&](const Scheme& wrong) { return layout().unsupported(wrong, linear).value_or("accepted"); };
  Scheme wrong = scheme();
  wrong.weights->num_bits = 7;
  CHECK(reason(wrong).find("8 bits") != std::string::npos);
  wrong = scheme();
  wrong.weights->observer_kwargs.clear();
  CHECK(reason(wrong).find("restricted") != std::string::npos);
  wrong = scheme();
  wrong.weights->outlier_percent = 1;
  CHECK(reason(wrong).find("sparse") != std::string::npos);
  wrong = scheme();
  wrong.input_activations.reset();
  CHECK(reason(wrong).find("input_activations") != std::string::npos);
  CHECK(layout_named("compressed-tensors").unsupported(scheme(), linear)->find("outlier_threshold") !=
        std::string::npos);
  CHECK_THROWS_AS(layout().config_json({}, {{"a", scheme(6), {}}, {"b", scheme(5), {}}}, {}), Error);
  Scheme four;
  four.weights = codebook_args(Codebook::nf4, 4, Strategy::flat, 64);
  CHECK_THROWS_AS(layout().config_json({}, {{"a", scheme(), {}}, {"b", four, {}}}, {}), Error);
}

TEST_CASE("damaged 8-bit files are refused by name") {
  CHECK(error_of(valid()).empty());
  MemoryCheckpoint checkpoint = valid();
  checkpoint.remove("m.weight");
  CHECK(error_of(checkpoint).find("m.weight") != std::string::npos);
  checkpoint = valid();
  checkpoint.remove("m.SCB");
  CHECK(error_of(checkpoint).find("no SCB") != std::string::npos);
  checkpoint.remove("m.weight_format");
  CHECK(error_of(checkpoint).find("m.weight is part of") != std::string::npos);
  checkpoint = valid();
  checkpoint.set("m.weight", DType::I8, {60}, std::vector<std::byte>(60));
  CHECK(error_of(checkpoint).find("m.weight") != std::string::npos);
  checkpoint = valid();
  checkpoint.set("m.SCB", DType::F32, {4}, std::vector<std::byte>(16));
  CHECK(error_of(checkpoint).find("m.SCB") != std::string::npos);
  for (const float bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    checkpoint = valid();
    std::memcpy(checkpoint.bytes("m.SCB").data() + 8, &bad, 4);
    CHECK(error_of(checkpoint).find("m.SCB") != std::string::npos);
  }
  checkpoint = valid();
  checkpoint.bytes("m.weight_format")[0] = std::byte{1};
  CHECK(error_of(checkpoint).find("weight_format") != std::string::npos);
  for (const Json& bad : {Json("6"), Json(-1), Json(1e9)}) {
    checkpoint = valid();
    Json config = Json::parse(checkpoint.config().quantization_config);
    config["llm_int8_threshold"] = bad;
    checkpoint.mutable_config().quantization_config = config.dump();
    CHECK(error_of(checkpoint).find("llm_int8_threshold") != std::string::npos);
  }
}

TEST_CASE("a row of zeros as bitsandbytes writes it, SCB 0, is read as zeros") {
  MemoryCheckpoint checkpoint = valid();
  std::fill_n(checkpoint.bytes("m.SCB").begin(), 4, std::byte{0});
  std::fill_n(checkpoint.bytes("m.weight").begin(), 12, std::byte{0});
  QuantizedTensor out;
  layout().read_rows(checkpoint, layout().find_linears(checkpoint)[0], 0, 1, out);
  std::vector<float> row(12, 1.0F);
  dequantize_row(out, 0, row);
  CHECK(row == std::vector<float>(12, 0.0F));
}
