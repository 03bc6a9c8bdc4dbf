// Whole checkpoints in other layouts: there and back, what is refused, and what rounding again costs.
#include <nlohmann/json.hpp>

#include "native_layout/support.h"
#include "quant/algorithm.h"
#include "quant/compare.h"
#include "quant/convert.h"
#include "quant/error.h"
#include "quant/open.h"
#include "quant/pipeline.h"
#include "quant/recipe_yaml.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

using namespace quant;
using namespace quant::test;

namespace {

const Registry& registry() {
  static const Registry all = [] {
    Registry filled;
    register_builtin_formats(filled);
    register_builtin_algorithms(filled);
    return filled;
  }();
  return all;
}

void run_recipe(const std::filesystem::path& model, const std::filesystem::path& output, const std::string& text,
                const std::string& layout) {
  const Recipe recipe = parse_recipe(text, "recipe", {}, registry());
  const auto checkpoint = open_checkpoint(model);
  PlanOptions options;
  options.layout = layout;
  const Plan plan = make_plan(*checkpoint, recipe, registry(), options);
  INFO((plan.problems.empty() ? "" : plan.problems.front()));
  REQUIRE(plan.problems.empty());
  RunOptions run;
  run.output = output;
  run_plan(plan, run);
}

void quantize(const std::filesystem::path& model, const std::filesystem::path& output, const std::string& modifier,
              const std::string& weights, const std::string& layout) {
  const std::string text = "quant_stage:\n  quant_modifiers:\n    " + modifier +
                           ":\n      ignore: [lm_head]\n      config_groups:\n        group_0:\n"
                           "          targets: [Linear]\n" +
                           weights;
  run_recipe(model, output, text, layout);
}

std::string weights_text(int bits, bool symmetric, int group, const std::string& more = "") {
  return "          weights: {num_bits: " + std::to_string(bits) +
         ", type: int, symmetric: " + (symmetric ? "true" : "false") +
         (group > 0 ? ", strategy: group, group_size: " + std::to_string(group) : ", strategy: channel") + more + "}\n";
}

LayoutConversionOptions to(const std::filesystem::path& output, const std::string& layout) {
  LayoutConversionOptions options;
  options.output = output;
  options.layout = registry().layout(layout);
  options.container = registry().container("safetensors");
  return options;
}

LayoutConversionResult convert(const std::filesystem::path& from, const LayoutConversionOptions& options) {
  return convert_layout(*open_checkpoint(from), registry(), options);
}

std::string error_of(const std::filesystem::path& from, const LayoutConversionOptions& options) {
  try {
    convert(from, options);
  } catch (const Error& error) {
    CHECK_FALSE(std::filesystem::exists(options.output));
    CHECK_FALSE(std::filesystem::exists(options.output.string() + ".partial"));
    return error.what();
  }
  return "";
}

bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) { return read_file(a) == read_file(b); }

struct Case {
  std::string weights, first, second;
  DType dtype = DType::F16;
  std::string modifier = "QuantizationModifier";
};

}  // namespace

TEST_CASE("there and back gives the same bytes, and the same values on the way") {
  const std::string inputs =
      "          input_activations: {num_bits: 8, type: int, symmetric: true, strategy: token, dynamic: true}\n";
  const std::vector<Case> cases = {
      {weights_text(4, true, 32), "gptq", "awq"},
      {weights_text(4, true, 32), "gptq", "compressed-tensors"},
      {weights_text(4, true, 32), "gptq", "libquant", DType::BF16},
      {weights_text(4, false, 32), "gptq", "awq", DType::BF16},
      {weights_text(3, true, 32), "gptq", "compressed-tensors", DType::BF16},
      {weights_text(2, false, 32), "gptq", "compressed-tensors"},
      {weights_text(8, true, -1), "gptq", "compressed-tensors"},
      {weights_text(4, false, 32), "awq", "compressed-tensors", DType::F32},
      {weights_text(4, false, -1), "awq", "libquant"},
      {weights_text(4, true, 32), "compressed-tensors", "gptq", DType::BF16},
      {weights_text(4, true, 32), "compressed-tensors", "awq", DType::BF16},
      {weights_text(4, false, 32), "compressed-tensors", "gptq", DType::F16},
      {weights_text(6, false, 32), "compressed-tensors", "libquant", DType::F32},
      {weights_text(8, false, -1), "libquant", "gptq"},
      {weights_text(8, true, -1) + inputs, "compressed-tensors", "compressed-tensors"},
      {"          weights: {num_bits: 4, type: codebook, codebook: nf4, strategy: flat, group_size: 32, double_quant: "
       "true}\n",
       "bitsandbytes", "libquant", DType::BF16, "CodebookModifier"},
      {"          weights: {num_bits: 4, type: codebook, codebook: fp4, strategy: flat, group_size: 64}\n",
       "bitsandbytes", "libquant", DType::F16, "CodebookModifier"}};
  int number = 0;
  for (const Case& item : cases) {
    INFO(item.first << " -> " << item.second << " " << item.weights);
    TempDir dir;
    write_tiny_model(dir / "model", {.dtype = item.dtype, .tied = ++number % 2 == 0});
    quantize(dir / "model", dir / "a", item.modifier, item.weights, item.first);
    const auto there = convert(dir / "a", to(dir / "b", item.second));
    REQUIRE(there.linears.size() == 14);
    for (const ConvertedLinear& linear : there.linears) CHECK(linear.exact());
    CHECK(there.lost.count == 0);
    const auto a = open_checkpoint(dir / "a"), b = open_checkpoint(dir / "b");
    CHECK(registry().layout(item.second)->recognizes(b->config()));
    const Comparison same = compare_checkpoints(*a, *b, registry());
    CHECK(same.equal());
    convert(dir / "b", to(dir / "c", item.first));
    CHECK(same_file(dir / "a" / "model.safetensors", dir / "c" / "model.safetensors"));
    // What was converted once says all that it can say, so that from there on files are the same as well.
    convert(dir / "c", to(dir / "d", item.second));
    for (const char* file : {"model.safetensors", "config.json", "tokenizer.json"}) {
      CHECK(same_file(dir / "b" / file, dir / "d" / file));
    }
    for (const char* stale : {"report.json", "report.html", "report.h5", "recipe.yaml"}) {
      CHECK(std::filesystem::exists(dir / "a" / stale));
      CHECK_FALSE(std::filesystem::exists(dir / "b" / stale));
    }
    CHECK(std::filesystem::exists(dir / "b" / "quantize_config.json") == (item.second == "gptq"));
    CHECK(std::filesystem::exists(dir / "a" / "quantize_config.json") == (item.first == "gptq"));
  }
}

TEST_CASE("config.json of GPTQ comes back as it was, and shards hold the same tensors") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "QuantizationModifier", weights_text(4, true, 32), "gptq");
  auto options = to(dir / "b", "awq");
  options.shard_bytes = 20000;
  const auto result = convert(dir / "a", options);
  CHECK(result.files > 1);
  CHECK(std::filesystem::exists(dir / "b" / "model.safetensors.index.json"));
  options = to(dir / "c", "gptq");
  options.scan.threads = 3;
  convert(dir / "b", options);
  for (const char* file : {"model.safetensors", "config.json", "quantize_config.json"}) {
    CHECK(same_file(dir / "a" / file, dir / "c" / file));
  }
}

TEST_CASE("versions of GPTQ: the other one by format, and a file that says nothing in config.json") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "QuantizationModifier", weights_text(4, true, 32), "gptq");
  auto options = to(dir / "v2", "gptq");
  options.format = "gptq_v2";
  convert(dir / "a", options);
  CHECK(nlohmann::json::parse(read_file(dir / "v2" / "config.json"))["quantization_config"]["checkpoint_format"] ==
        "gptq_v2");
  convert(dir / "v2", to(dir / "back", "gptq"));
  CHECK(same_file(dir / "a" / "model.safetensors", dir / "back" / "model.safetensors"));

  auto config = nlohmann::json::parse(read_file(dir / "v2" / "config.json"));
  config.erase("quantization_config");
  std::ofstream(dir / "v2" / "config.json") << config;
  auto beside = nlohmann::json::parse(read_file(dir / "v2" / "quantize_config.json"));
  beside.erase("quant_method");
  std::ofstream(dir / "v2" / "quantize_config.json") << beside;
  const auto old = open_checkpoint(dir / "v2");
  CHECK(compare_checkpoints(*open_checkpoint(dir / "a"), *old, registry()).equal());
  std::ofstream(dir / "v2" / "quantize_config.json") << "[";
  CHECK_THROWS_AS(open_checkpoint(dir / "v2"), Error);
}

TEST_CASE("what has no exact place is refused with its reason, and nothing is left") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "w8", "QuantizationModifier", weights_text(8, true, -1), "compressed-tensors");
  const std::string bits = error_of(dir / "w8", to(dir / "out", "awq"));
  CHECK(bits.find("14 of 14 linears have no exact place in awq") != std::string::npos);
  CHECK(bits.find("awq holds 4 bits, not 8") != std::string::npos);
  quantize(dir / "model", dir / "fp8", "QuantizationModifier",
           "          weights: {num_bits: 8, type: float, strategy: channel}\n", "compressed-tensors");
  CHECK(error_of(dir / "fp8", to(dir / "out", "gptq")).find("fp8") != std::string::npos);
  quantize(
      dir / "model", dir / "int8", "QuantizationModifier",
      weights_text(8, true, -1) +
          "          input_activations: {num_bits: 8, type: int, symmetric: true, strategy: token, dynamic: true}\n",
      "compressed-tensors");
  CHECK(error_of(dir / "int8", to(dir / "out", "gptq")).find("input_activations") != std::string::npos);
  auto options = to(dir / "out", "gptq");
  options.weights_only = true;
  const auto result = convert(dir / "int8", options);
  REQUIRE(result.notes.size() == 1);
  CHECK(result.notes[0].find("inputs of 14 linears were quantized") != std::string::npos);
  CHECK(error_of(dir / "model", to(dir / "x", "gptq")).find("is not quantized") != std::string::npos);
}

TEST_CASE("asymmetric weights in version 1 only where no zero point is 0") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "QuantizationModifier", weights_text(4, false, 32), "awq");
  auto options = to(dir / "v1", "gptq");
  options.format = "gptq";
  convert(dir / "a", options);  // ranges around 0 have zero points near the middle
  convert(dir / "v1", to(dir / "back", "awq"));
  CHECK(same_file(dir / "a" / "model.safetensors", dir / "back" / "model.safetensors"));
}

TEST_CASE("zeros of pruned weights are stored where there is no mask, and stay zeros") {
  TempDir dir;
  write_tiny_model(dir / "model");
  const auto prune = [&](const std::string& name, const std::string& ignored, int bits) {
    const std::string text =
        "quant_stage:\n  quant_modifiers:\n    MagnitudePruningModifier:\n      final_sparsity: 0.5\n"
        "      targets: [Linear]\n    QuantizationModifier:\n      ignore: [" +
        ignored + "]\n      config_groups:\n        group_0:\n          targets: [Linear]\n" +
        weights_text(bits, true, 32);
    run_recipe(dir / "model", dir / name, text, "libquant");
  };
  prune("some", "lm_head, 're:.*down_proj'", 4);
  const auto options = to(dir / "ct", "compressed-tensors");
  const auto result = convert(dir / "some", options);
  REQUIRE(result.notes.size() == 1);
  CHECK(
      result.notes[0].starts_with("zeros of 14 pruned linears are stored: compressed-tensors has no place for masks"));
  CHECK(result.notes[0].find("2 of them, which are not quantized, become plain tensors") != std::string::npos);
  const auto some = open_checkpoint(dir / "some"), ct = open_checkpoint(options.output);
  CHECK(compare_checkpoints(*some, *ct, registry()).equal());
  CHECK(ct->find("model.layers.0.mlp.down_proj.weight") != nullptr);
  CHECK(ct->config().quantization_config.find("down_proj") != std::string::npos);  // ignored by its loaders
  auto again = to(dir / "awq", "awq");
  const auto rtn = registry().algorithm("rtn")->create({});
  again.requantizer = dynamic_cast<const Quantizer*>(rtn.get());
  prune("bytes", "lm_head, 're:.*down_proj'", 8);
  for (const ConvertedLinear& linear : convert(dir / "bytes", again).linears) {
    CHECK(linear.exact() == linear.module.ends_with("down_proj"));  // plain tensors are not quantized by the way
  }
  prune("none", "'re:.*'", 4);
  CHECK(error_of(dir / "none", to(dir / "x", "gptq")).find("is pruned and not quantized") != std::string::npos);
}

TEST_CASE("inputs are left out where it is said, also where weights are rounded again") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(
      dir / "model", dir / "int8", "QuantizationModifier",
      weights_text(8, true, -1) +
          "          input_activations: {num_bits: 8, type: int, symmetric: true, strategy: token, dynamic: true}\n",
      "compressed-tensors");
  auto options = to(dir / "out", "awq");
  const auto rtn = registry().algorithm("rtn")->create({});
  options.requantizer = dynamic_cast<const Quantizer*>(rtn.get());
  CHECK(error_of(dir / "int8", options).find("input_activations") != std::string::npos);
  options.weights_only = true;
  CHECK(convert(dir / "int8", options).notes.size() == 1);
}

TEST_CASE("rounding again is measured against what the checkpoint held") {
  TempDir dir;
  write_tiny_model(dir / "model", {.dtype = DType::F32});
  const auto rtn = registry().algorithm("rtn")->create({});
  const auto check = [&](const std::string& from, const std::string& layout, double least, double most) {
    INFO(from << " -> " << layout);
    auto options = to(dir / (from + "-" + layout), layout);
    options.requantizer = dynamic_cast<const Quantizer*>(rtn.get());
    const auto result = convert(dir / from, options);
    CHECK_FALSE(result.linears[0].reason.empty());
    const Comparison difference =
        compare_checkpoints(*open_checkpoint(dir / from), *open_checkpoint(options.output), registry());
    CHECK(result.lost.noise == Approx(difference.changed.noise).epsilon(1e-6));
    const double nmse = summarize(result.lost).nmse;
    CHECK((nmse > least && nmse < most));
  };
  quantize(dir / "model", dir / "w8", "QuantizationModifier", weights_text(8, true, -1), "compressed-tensors");
  check("w8", "awq", 1e-3, 3e-2);
  quantize(dir / "model", dir / "nf4", "CodebookModifier",
           "          weights: {num_bits: 4, type: codebook, codebook: nf4, strategy: flat, group_size: 32}\n",
           "bitsandbytes");
  check("nf4", "gptq", 1e-3, 3e-2);
  // F32 scales: codes stay, scales are rounded to 11 bits.
  quantize(dir / "model", dir / "w4", "QuantizationModifier", weights_text(4, true, 32), "compressed-tensors");
  CHECK(error_of(dir / "w4", to(dir / "no", "gptq")).find("scales of F32 are no values of F16") != std::string::npos);
  check("w4", "gptq", 1e-9, 6e-8);
}

TEST_CASE("a stop leaves nothing behind") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "QuantizationModifier", weights_text(4, true, 32), "gptq");
  const std::atomic<bool> stop = true;
  auto options = to(dir / "b", "awq");
  options.scan.stop = &stop;
  CHECK_FALSE(error_of(dir / "a", options).empty());
  ConvertOptions copy;
  copy.output = dir / "copy";
  copy.scan.stop = &stop;
  CHECK_THROWS_AS(convert_checkpoint(*open_checkpoint(dir / "a"), copy), Error);
  CHECK_FALSE(std::filesystem::exists(dir / "copy.partial"));
}

TEST_CASE("LLM.int8() goes to libquant without a loss, and comes back") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "LLMInt8Modifier",
           "          weights: {num_bits: 8, type: int, symmetric: true, strategy: channel, observer_kwargs: "
           "{symmetric_range: restricted}}\n"
           "          input_activations: {num_bits: 8, type: int, symmetric: true, strategy: token, dynamic: true, "
           "outlier_threshold: 6.0, observer_kwargs: {symmetric_range: restricted}}\n",
           "bitsandbytes");
  const auto result = convert(dir / "a", to(dir / "b", "libquant"));
  for (const ConvertedLinear& linear : result.linears) CHECK(linear.exact());
  CHECK(result.notes.size() == 1);
  CHECK(compare_checkpoints(*open_checkpoint(dir / "a"), *open_checkpoint(dir / "b"), registry()).equal());
}

TEST_CASE("a recipe's format chooses the version of GPTQ") {
  TempDir dir;
  write_tiny_model(dir / "model");
  quantize(dir / "model", dir / "a", "QuantizationModifier", "          format: gptq_v2\n" + weights_text(4, true, 32),
           "gptq");
  CHECK(registry().layout("gptq")->find_linears(*open_checkpoint(dir / "a")).front().format == "gptq_v2");
}

TEST_CASE("scales of cached keys and values go where there is a place for them") {
  TempDir dir;
  const Layout& layout = *registry().layout("compressed-tensors");
  QuantArgs args;
  args.num_bits = 4;
  args.strategy = Strategy::group;
  args.group_size = 32;
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  const LinearShape linear{"model.layers.0.self_attn.k_proj", 32, 64, DType::F16};
  MemoryCheckpoint checkpoint =
      stored_checkpoint(layout, scheme, linear, random_tensor(layout, args, linear.rows, linear.cols, 3));
  QuantArgs cache;
  cache.type = NumberType::floating;
  const std::string attention = "model.layers.0.self_attn";
  const auto stored = layout.stored_kv(cache, attention, DType::F16);
  CountingSink sink(stored);
  layout.write_kv(cache, attention, DType::F16, {0.25F, 0.5F}, sink);
  for (std::size_t i = 0; i < stored.size(); ++i) {
    checkpoint.set(stored[i].name, stored[i].dtype, stored[i].shape, sink.bytes[i]);
  }
  ModelConfig& config = checkpoint.mutable_config();
  config.text = layout.config_json_kv({}, {{"group_0", scheme, {linear}}}, {}, cache);
  config.quantization_config = nlohmann::json::parse(config.text).at("quantization_config").dump();
  config.dtype = DType::F16;

  convert_layout(checkpoint, registry(), to(dir / "same", "compressed-tensors"));
  const auto same = open_checkpoint(dir / "same");
  CHECK(layout.kv_cache_scheme(same->config()) == layout.kv_cache_scheme(config));
  const auto found = layout.find_kv(*same);
  REQUIRE(found.size() == 1);
  CHECK((found[0].scales.key == 0.25F && found[0].scales.value == 0.5F));

  auto options = to(dir / "gptq", "gptq");
  CHECK_THROWS_AS(convert_layout(checkpoint, registry(), options), Error);
  CHECK_FALSE(std::filesystem::exists(dir / "gptq"));
  options.weights_only = true;
  const auto result = convert_layout(checkpoint, registry(), options);
  REQUIRE(result.notes.size() == 1);
  CHECK(result.notes[0].find("keys and values were quantized") == 0);
  CHECK(open_checkpoint(dir / "gptq")->tensors().size() == 4);
}
