#include <algorithm>

#include "quant/model.h"
#include "quant/open.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

using namespace quant;
using quant::test::TempDir;

namespace {

const Module* find_module(const ModelOutline& outline, const std::string& name) {
  const auto found =
      std::find_if(outline.modules.begin(), outline.modules.end(), [&](const Module& m) { return m.name == name; });
  return found == outline.modules.end() ? nullptr : &*found;
}

}  // namespace

TEST_CASE("names with numbers sort by value") {
  CHECK(natural_less("layers.2.x", "layers.10.x"));
  CHECK_FALSE(natural_less("layers.10.x", "layers.2.x"));
  CHECK(natural_less("a", "b"));
  CHECK(natural_less("a", "a.b"));
  CHECK_FALSE(natural_less("a.b", "a"));
  CHECK_FALSE(natural_less("same.1", "same.1"));
  CHECK(natural_less("x.01", "x.1") != natural_less("x.1", "x.01"));  // a strict order for different names
}

TEST_CASE("modules are classed by name and shape") {
  TempDir dir;
  test::write_tiny_model(dir.path(), {.layers = 11});
  const auto checkpoint = open_checkpoint(dir.path());
  const ModelOutline outline = outline_model(*checkpoint);
  REQUIRE(find_module(outline, "model.embed_tokens") != nullptr);
  CHECK(find_module(outline, "model.embed_tokens")->class_name == "Embedding");
  CHECK(find_module(outline, "model.layers.3.mlp.up_proj")->class_name == "Linear");
  CHECK(find_module(outline, "model.layers.3.input_layernorm")->class_name == "Norm");
  // A tied head has no tensor but is a linear of the model.
  REQUIRE(find_module(outline, "lm_head") != nullptr);
  CHECK(find_module(outline, "lm_head")->weight == nullptr);
  const auto order = [&](const std::string& name) { return find_module(outline, name) - outline.modules.data(); };
  CHECK(order("model.layers.2.mlp.up_proj") < order("model.layers.10.mlp.up_proj"));
}

TEST_CASE("GPT-2's transposed linears, biases, convolutions and fused experts are told apart") {
  TempDir dir;
  test::write_random_file(dir / "model.safetensors",
                          {{"h.0.attn.c_attn.weight", DType::F32, {8, 24}},
                           {"h.0.attn.c_attn.bias", DType::F32, {24}},
                           {"wte.weight", DType::F32, {10, 8}},
                           {"conv.weight", DType::F32, {4, 3, 2, 2}},
                           {"experts.gate_up_proj", DType::F32, {2, 8, 8}}},
                          1);
  test::write_file(dir / "config.json", R"({"model_type": "gpt2", "architectures": ["GPT2Model"]})");
  const auto checkpoint = open_checkpoint(dir.path());
  const ModelOutline outline = outline_model(*checkpoint);
  CHECK(find_module(outline, "h.0.attn.c_attn")->class_name == "Conv1D");
  CHECK(find_module(outline, "wte")->class_name == "Embedding");
  CHECK(find_module(outline, "conv")->class_name == "Other");
  CHECK(find_module(outline, "lm_head") == nullptr);  // an encoder without a head
  CHECK(outline.others.size() == 2);
  CHECK(outline.parameters == 8 * 24 + 24 + 80 + 48 + 128);
}
