// Quantized inputs of linears and quantized caches against the logits of Transformers with compressed-tensors
// (make_golden.py), and what is refused.
#include <cmath>
#include <cstring>

#include "quant/error.h"
#include "quant/language_model.h"
#include "quant/open.h"
#include "quant/verify.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::filesystem::path kGolden = std::filesystem::path(QUANT_SOURCE_DIR) / "tests/evaluate/golden";

const Registry& registry() {
  static const Registry filled = [] {
    Registry r;
    register_builtin_formats(r);
    return r;
  }();
  return filled;
}

template <typename T>
std::vector<T> values(const Checkpoint& file, const std::string& name) {
  const TensorView view = file.view(*file.find(name));
  std::vector<T> list(view.bytes.size() / sizeof(T));
  std::memcpy(list.data(), view.bytes.data(), view.bytes.size());
  return list;
}

struct Golden {
  explicit Golden(const std::string& name) : expected(open_checkpoint(kGolden / (name + ".safetensors"))) {
    const auto opened = open_checkpoint(kGolden / name);
    for (const TensorInfo& tensor : opened->tensors()) checkpoint.set(tensor.name, opened->view(tensor));
    checkpoint.mutable_config() = opened->config();
    for (const char* number : {"0", "1"}) ids.push_back(values<std::int32_t>(*expected, std::string("ids.") + number));
  }
  /// "output": all quantized. "plain": quantized weights alone.
  std::vector<float> logits(const std::string& which) const {
    std::vector<float> all = values<float>(*expected, which + ".0");
    const std::vector<float> more = values<float>(*expected, which + ".1");
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  std::unique_ptr<Checkpoint> expected;
  MemoryCheckpoint checkpoint;
  std::vector<std::vector<std::int32_t>> ids;
};

std::vector<float> computed(const Golden& golden, const LanguageModelOptions& options) {
  const LogicalTensors tensors(golden.checkpoint, registry());
  const ModelWeights weights(tensors);
  LanguageModel model(weights, options);
  model.run(golden.ids, {});
  std::vector<std::uint64_t> rows;
  for (const auto& sequence : golden.ids) {
    for (std::size_t i = 0; i < sequence.size(); ++i) rows.push_back(rows.size());
  }
  std::vector<float> logits(rows.size() * model.vocabulary());
  model.logits(rows, logits);
  return logits;
}

/// The last logits of the first sequence, decoded token by token.
std::vector<float> decoded(const Golden& golden) {
  const LogicalTensors tensors(golden.checkpoint, registry());
  const ModelWeights weights(tensors);
  LanguageModel model(weights, {.threads = 2});
  Decoder decoder(model);
  std::vector<float> logits;
  for (const std::int32_t id : golden.ids[0]) {
    const auto row = decoder.feed(std::span(&id, 1));
    logits.assign(row.begin(), row.end());
  }
  return logits;
}

/// Root of the mean square of the differences, over that of the reference.
double distance(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double noise = 0;
  double signal = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    noise += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    signal += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(noise / signal);
}

const std::vector<std::string> kCases{"int8_symmetric", "int8_asymmetric", "fp8", "nvfp4", "fp8_cache", "int8_cache"};

Error error_of(const Golden& golden) {
  try {
    computed(golden, {.threads = 1});
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error");
  throw;
}

}  // namespace

TEST_CASE("quantized inputs and caches give the logits of compressed-tensors") {
  for (const std::string& name : kCases) {
    INFO(name);
    const Golden golden(name);
    const std::vector<float> expected = golden.logits("output");
    const std::vector<float> plain = golden.logits("plain");
    const std::vector<float> got = computed(golden, {.threads = 2});
    CHECK(distance(got, expected) < 2e-5);
    CHECK(distance(plain, expected) > 0.02);
    const auto floats = computed(golden, {.quantize_activations = false, .quantize_kv_cache = false});
    CHECK(distance(floats, plain) < 2e-5);
    const std::size_t vocabulary = got.size() / (golden.ids[0].size() + golden.ids[1].size());
    const std::size_t last = (golden.ids[0].size() - 1) * vocabulary;
    CHECK(distance(decoded(golden), std::span(expected).subspan(last, vocabulary)) < 2e-5);
  }
}

TEST_CASE("quantized inputs do not depend on threads") {
  for (const std::string& name : kCases) {
    const Golden golden(name);
    CHECK(computed(golden, {.threads = 1}) == computed(golden, {.threads = 3}));
  }
}

TEST_CASE("stored scales that are missing or wrong are refused by name") {
  const std::string module = "model.layers.1.mlp.up_proj";
  const auto wrong = [&](const std::string& name, const std::string& tensor, float value) {
    Golden golden(name);
    golden.checkpoint.set_values(tensor, DType::F32, {1}, std::vector<float>{value});
    const Error error = error_of(golden);
    INFO(error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(has(error.what(), "in-memory: tensor " + tensor));  // two models may be open
    CHECK_FALSE(error.hint().empty());
  };
  const auto missing = [&](const std::string& name, const std::string& tensor) {
    Golden golden(name);
    golden.checkpoint.remove(tensor);
    const Error error = error_of(golden);
    INFO(error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(has(error.what(), "in-memory: tensor " + tensor + " is missing"));
  };
  for (const float value : {0.0F, -1.0F, std::nanf(""), HUGE_VALF}) {
    wrong("int8_asymmetric", module + ".input_scale", value);
    wrong("nvfp4", module + ".input_global_scale", value);
    wrong("int8_cache", "model.layers.1.self_attn.v_scale", value);
  }
  for (const float value : {0.5F, 128.0F, -129.0F, std::nanf("")}) {
    wrong("int8_asymmetric", module + ".input_zero_point", value);
  }
  missing("fp8", module + ".input_scale");
  missing("nvfp4", module + ".input_global_scale");
  missing("int8_cache", "model.layers.0.self_attn.k_scale");
}

TEST_CASE("an FP8 cache without scales is stored as it is") {
  Golden golden("fp8_cache");
  std::vector<float> ones;
  for (const char* name : {"model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale",
                           "model.layers.1.self_attn.k_scale", "model.layers.1.self_attn.v_scale"}) {
    golden.checkpoint.set_values(name, DType::F32, {1}, std::vector<float>{1.0F});
  }
  ones = computed(golden, {});
  for (const char* layer : {"model.layers.0", "model.layers.1"}) {
    for (const char* part : {".self_attn.k_scale", ".self_attn.v_scale"}) {
      golden.checkpoint.remove(std::string(layer) + part);
    }
  }
  CHECK(computed(golden, {}) == ones);
}

TEST_CASE("verify names scales of inputs and caches that are missing or wrong") {
  const auto findings = [](const Golden& golden) {
    std::vector<std::string> list;
    for (const Finding& finding : verify_checkpoint(golden.checkpoint, registry()).findings) {
      if (finding.severity == Finding::Severity::error) list.push_back(finding.check + " " + finding.subject);
    }
    return list;
  };
  using List = std::vector<std::string>;
  for (const std::string& name : kCases) CHECK(findings(Golden(name)).empty());
  const std::string up = "model.layers.1.mlp.up_proj";
  for (const char* name : {"int8_asymmetric", "fp8"}) {
    Golden golden(name);
    golden.checkpoint.set_values(up + ".input_scale", DType::F32, {1}, std::vector<float>{-1.0F});
    CHECK(findings(golden) == List{"input_scale " + up + ".input_scale"});
  }
  Golden inputs("nvfp4");
  inputs.checkpoint.remove(up + ".input_global_scale");
  CHECK(findings(inputs) == List{"input_scale " + up + ".input_global_scale"});
  const std::string attention = "model.layers.1.self_attn";
  Golden half("int8_cache");
  half.checkpoint.remove(attention + ".v_scale");
  CHECK(findings(half) == List{"BadKvScale kv_cache_scheme"});
  half.checkpoint.remove(attention + ".k_scale");
  CHECK(findings(half) == List{"cache_scale_missing " + attention + ".k_scale"});
  Golden floats("fp8_cache");
  floats.checkpoint.remove(attention + ".v_scale");
  floats.checkpoint.remove(attention + ".k_scale");
  CHECK(findings(floats).empty());
}

TEST_CASE("quantized weights stay packed, and give the same", "[evaluate]") {
  const Golden golden("int8_symmetric");
  const LogicalTensors tensors(golden.checkpoint, registry());
  const ModelWeights weights(tensors);
  const ModelProgram program = build_model_program(tensors);
  const Program& block = program.blocks.at(0);
  std::vector<float> outputs[2];
  std::uint64_t bytes[2] = {};
  for (const bool packed : {false, true}) {
    ProgramRunner runner(block, weights, {.packed = packed});
    runner.prepare(0, block.ops.size());
    bytes[packed ? 1 : 0] = runner.prepared_bytes();
    Batch batch;
    batch.lengths = {7};
    Values values(block);
    for (std::uint64_t i = 0; i < 7 * program.hidden; ++i) {
      values.at(block.input).push_back(std::sin(static_cast<float>(i)));
    }
    runner.run(0, block.ops.size(), batch, values);
    outputs[packed ? 1 : 0] = values.at(block.output);
  }
  CHECK(bytes[1] * 2 < bytes[0]);
  REQUIRE(outputs[0].size() == outputs[1].size());
  for (std::size_t i = 0; i < outputs[0].size(); ++i) CHECK(outputs[1][i] == Approx(outputs[0][i]).margin(1e-5));
}

TEST_CASE("8-bit inputs are multiplied as integers, by sequence", "[evaluate]") {
  const Golden golden("int8_symmetric");
  const LogicalTensors tensors(golden.checkpoint, registry());
  const ModelWeights weights(tensors);
  const ModelProgram program = build_model_program(tensors);
  const Program& block = program.blocks.at(0);
  std::size_t at = 0;
  while (!std::holds_alternative<LinearOp>(block.ops[at])) ++at;
  const auto& linear = std::get<LinearOp>(block.ops[at]);
  for (const double threshold : {0.0, 1.5}) {
    InputQuantizer quantizer;
    quantizer.args.num_bits = 8;
    quantizer.args.strategy = Strategy::token;
    quantizer.args.dynamic = Dynamic::yes;
    quantizer.args.outlier_threshold = threshold;
    std::vector<float> outputs[2], inputs;
    for (const bool packed : {false, true}) {
      ProgramRunner runner(block, weights, {.packed = packed});
      runner.set_input_quantizer(linear.weights.front().module, quantizer);
      Batch batch;
      batch.lengths = {4, 3};
      Values values(block);
      for (std::uint64_t i = 0; i < 7 * program.hidden; ++i) {
        values.at(block.input).push_back(std::sin(static_cast<float>(i * i)) * (i % 29 == 0 ? 9.0F : 1.0F));
      }
      runner.run(0, at + 1, batch, values);
      outputs[packed ? 1 : 0] = values.at(linear.out);
    }
    CAPTURE(threshold);
    REQUIRE(outputs[0].size() == outputs[1].size());
    float largest = 0;
    for (const float value : outputs[0]) largest = std::max(largest, std::fabs(value));
    for (std::size_t i = 0; i < outputs[0].size(); ++i) {
      CHECK(std::fabs(outputs[1][i] - outputs[0][i]) <= 4e-6F * largest);
    }
    CHECK(outputs[0] != outputs[1]);  // rounded otherwise: not the same kernel
  }
}
