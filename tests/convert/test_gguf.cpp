// Codes of GGUF files in layouts, and back: moved, with the same bytes at the end.
#include <cmath>

#include "convert/unpack_blocks.h"
#include "native_layout/support.h"
#include "quant/algorithm.h"
#include "quant/compare.h"
#include "quant/convert.h"
#include "quant/error.h"
#include "quant/gguf.h"
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

// With all that a GGUF file says of a Llama, and without a tokenizer: the tiny model's is none that llama.cpp has.
void write_model(const std::filesystem::path& directory) {
  write_tiny_model(directory, {.dtype = DType::F16});
  std::filesystem::remove(directory / "tokenizer.json");
  write_file(directory / "config.json",
             R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": true,
                 "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "max_position_embeddings": 128, "vocab_size": 50, "rms_norm_eps": 1e-5})");
}

void quantize(const std::filesystem::path& model, const std::filesystem::path& output, const std::string& weights,
              const std::string& layout) {
  const std::string text =
      "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n" +
      (weights == "MXFP4A16" ? "      targets: [Linear]\n      scheme: MXFP4A16\n"
                             : "      config_groups:\n        group_0:\n          targets: [Linear]\n"
                               "          weights: {" +
                                   weights + "}\n");
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

GgufExportResult to_gguf(const std::filesystem::path& from, const std::filesystem::path& output,
                         std::optional<BlockType> type = {}) {
  GgufExportOptions options;
  options.output = output;
  options.type = type;
  return export_gguf(*open_checkpoint(from), registry(), options);
}

LayoutConversionResult to_layout(const std::filesystem::path& from, const std::filesystem::path& output,
                                 const std::string& layout, const Quantizer* requantizer = nullptr) {
  LayoutConversionOptions options;
  options.output = output;
  options.layout = registry().layout(layout);
  options.container = registry().container("safetensors");
  options.requantizer = requantizer;
  return convert_layout(*open_checkpoint(from), registry(), options);
}

std::string refusal(const std::filesystem::path& from, const std::filesystem::path& output, const std::string& layout) {
  try {
    to_layout(from, output, layout);
  } catch (const Error& error) {
    CHECK_FALSE(std::filesystem::exists(output));
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("codes go from layouts into GGUF files and back, and come to the same bytes") {
  struct Case {
    std::string weights, layout, block;
  };
  const std::vector<Case> cases = {
      {"num_bits: 4, type: int, symmetric: true, strategy: group, group_size: 32", "compressed-tensors", "Q4_0"},
      {"num_bits: 4, type: int, symmetric: true, strategy: group, group_size: 32", "gptq", "Q4_0"},
      {"num_bits: 8, type: int, symmetric: true, strategy: group, group_size: 32", "compressed-tensors", "Q8_0"},
      {"MXFP4A16", "compressed-tensors", "MXFP4"}};
  for (const Case& item : cases) {
    INFO(item.weights << " " << item.layout);
    TempDir dir;
    write_model(dir / "model");
    quantize(dir / "model", dir / "a", item.weights, item.layout);
    const GgufExportResult written = to_gguf(dir / "a", dir / "a.gguf");
    REQUIRE(written.matrices.size() == 14);
    for (const GgufMatrix& matrix : written.matrices)
      CHECK((matrix.moved && !matrix.rounded && matrix.sums.count == 0));
    const auto again = dir / "again" / "a";  // the name of a directory becomes general.name
    std::filesystem::create_directories(again.parent_path());
    const auto result = to_layout(dir / "a.gguf", again, item.layout);
    REQUIRE(result.linears.size() == 14);
    for (const ConvertedLinear& linear : result.linears) {
      CHECK(linear.exact());
      CHECK(linear.from.block == find_block_format(item.block)->type);
    }
    CHECK(compare_checkpoints(*open_checkpoint(dir / "a"), *open_checkpoint(again), registry()).equal());
    to_gguf(again, dir / "b.gguf");
    CHECK((read_file(dir / "a.gguf") == read_file(dir / "b.gguf")));
  }
}

TEST_CASE("zero points go into the minima of Q4_1 and back where these are half-precision numbers") {
  QuantArgs args;
  args.num_bits = 4;
  args.symmetric = false;
  args.strategy = Strategy::group;
  args.group_size = 32;
  QuantizedTensor tensor, back;
  tensor.resize(args, 3, 96);
  tensor.scale_dtype = DType::F16;
  for (std::size_t i = 0; i < tensor.codes.size(); ++i) tensor.codes[i] = static_cast<std::int8_t>(i * 7 % 16) - 8;
  for (std::size_t i = 0; i < tensor.scales.size(); ++i) {
    tensor.scales[i] = std::ldexp(1.0F, -static_cast<int>(i));
    tensor.zero_points[i] = static_cast<std::int8_t>(i * 5 % 16) - 8;
  }
  convert::unpack_blocks(move_to_blocks(tensor, BlockType::q4_1), back);
  CHECK(back.codes == tensor.codes);
  CHECK(back.scales == tensor.scales);
  CHECK(back.zero_points == tensor.zero_points);
  tensor.scales[4] = 1023.0F / 1024;  // a float16, of which 13 times is none
  tensor.zero_points[4] = 5;
  CHECK_THROWS_AS(move_to_blocks(tensor, BlockType::q4_1), Error);
}

TEST_CASE("blocks of all kinds stay blocks in libquant; embeddings become plain elsewhere") {
  TempDir dir;
  write_model(dir / "model");
  const GgufExportResult written = to_gguf(dir / "model", dir / "a.gguf", BlockType::q8_0);
  REQUIRE_FALSE(written.matrices.empty());
  ErrorSums sums;
  for (const GgufMatrix& matrix : written.matrices) sums += matrix.sums;
  const Comparison difference =
      compare_checkpoints(*open_checkpoint(dir / "model"), *open_checkpoint(dir / "a.gguf"), registry());
  CHECK(sums.noise == Approx(difference.changed.noise).epsilon(1e-6));
  const auto plain = to_layout(dir / "a.gguf", dir / "ct", "compressed-tensors");
  CHECK(plain.notes.size() == 1);
  const auto a = open_checkpoint(dir / "a.gguf");
  CHECK(compare_checkpoints(*a, *open_checkpoint(dir / "ct"), registry()).equal());
  CHECK(open_checkpoint(dir / "ct")->find("model.embed_tokens.weight")->dtype == DType::F32);
  to_layout(dir / "a.gguf", dir / "native", "libquant");
  CHECK(compare_checkpoints(*a, *open_checkpoint(dir / "native"), registry()).equal());
  CHECK(open_checkpoint(dir / "native")->find("model.layers.0.mlp.up_proj.weight_blocks") != nullptr);
}

TEST_CASE("blocks that are no codes of a grid are refused, or rounded again where it is said") {
  TempDir dir;
  write_model(dir / "model");
  to_gguf(dir / "model", dir / "q5_1.gguf", BlockType::q5_1);
  CHECK(refusal(dir / "q5_1.gguf", dir / "x", "gptq").find("have no exact place in gptq") != std::string::npos);
  to_gguf(dir / "model", dir / "q4_1.gguf", BlockType::q4_1);  // minima that are no multiples of scales
  CHECK(refusal(dir / "q4_1.gguf", dir / "x", "gptq").find("no multiple of its scale") != std::string::npos);
  const auto rtn = registry().algorithm("rtn")->create({});
  const auto again = to_layout(dir / "q4_1.gguf", dir / "again", "gptq", dynamic_cast<const Quantizer*>(rtn.get()));
  CHECK_FALSE(again.linears.back().exact());
  CHECK(summarize(again.lost).nmse < 0.02);
}
