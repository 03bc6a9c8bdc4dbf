// What belongs together in every family, and what a cut makes of names, shapes and config.json.
#include "quant/error.h"
#include "structured/config_rewrite.h"
#include "structured/cut.h"
#include "structured/pruned.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using namespace quant::structured;

TEST_CASE("every family's heads and channels are found") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto golden = golden_model(name);
    const Axes found(golden->checkpoint);
    const auto config = golden->config();
    const auto& settings = config.contains("text_config") ? config["text_config"] : config;
    const std::uint64_t heads = settings.value("num_attention_heads", settings.value("n_head", 0U));
    for (const BlockAxes& block : found.axes.blocks) {
      REQUIRE(block.attention);
      CHECK(block.attention->heads == heads);
      CHECK(block.hidden.size() >= 4);
      REQUIRE(!block.ffn.empty());
      std::size_t readers = 0;
      for (const FfnAxis& ffn : block.ffn) {
        CHECK(ffn.width == (ffn.key.find("intermediate") != std::string::npos
                                ? settings.at(ffn.key.substr(0, ffn.key.find('|'))).get<std::uint64_t>()
                                : ffn.width));
        readers += ffn.experts;
      }
      if (block.experts) CHECK(readers >= block.experts->count);
    }
  }
}

TEST_CASE("cutting nothing leaves every tensor and the configuration as they are") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto golden = golden_model(name);
    const Axes found(golden->checkpoint);
    const KeptUnits all = structured::everything(found.axes, found.model);
    const CutList cuts = make_cuts(golden->checkpoint, found.axes, found.model, all, {});
    REQUIRE(cuts.tensors.size() == golden->checkpoint.tensors().size());
    for (const TensorCut& cut : cuts.tensors) {
      CHECK(cut.whole());
      CHECK(cut.name == cut.source->name);
      CHECK(cut.shape == cut.source->shape);
    }
    const std::string& text = golden->checkpoint.config().text;
    CHECK(rewrite_config(text, found.axes, found.model, all, {}) == text);
    CHECK_NOTHROW(check_meaning(found.program, found.program, all, name));
  }
}

TEST_CASE("cut tensors hold the values at the kept rows and columns") {
  const auto golden = golden_model("qwen2_moe_fused");
  const Axes found(golden->checkpoint);
  KeptUnits kept = structured::everything(found.axes, found.model);
  kept.layers = {1};
  kept.hidden.erase(kept.hidden.begin() + 5);
  LayerUnits& units = kept.of_layer[1];
  units.experts = {0, 2};
  for (std::size_t e = 0; e < units.ffn.back().size(); ++e) {
    for (auto& ffn : units.ffn) {
      if (ffn.size() > 1) ffn[e].erase(ffn[e].begin() + static_cast<std::ptrdiff_t>(e));
    }
  }
  const CutList cuts = make_cuts(golden->checkpoint, found.axes, found.model, kept, {});
  const std::string source = "model.layers.1.mlp.experts.gate_up_proj";
  const TensorCut* cut = nullptr;
  for (const TensorCut& one : cuts.tensors) {
    CHECK(one.name.find("layers.1.") == std::string::npos);
    if (one.source->name == source) cut = &one;
  }
  REQUIRE(cut != nullptr);
  CHECK(cut->name == "model.layers.0.mlp.experts.gate_up_proj");
  const Shape before = cut->source->shape;
  const std::uint64_t width = before[1] / 2, hidden = before[2];
  CHECK(cut->shape == Shape{2, 2 * (width - 1), hidden - 1});
  const std::vector<std::byte> bytes = all_bytes(golden->checkpoint, *cut);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  const std::vector<float> all = golden_weights(source, before);
  std::size_t at = 0;
  for (const std::uint64_t expert : {0U, 2U}) {
    for (std::uint64_t row = 0; row < 2 * width; ++row) {
      if (row % width == expert) continue;
      for (std::uint64_t col = 0; col < hidden; ++col) {
        if (col == 5) continue;
        CHECK(values.at(at++) == all[(expert * 2 * width + row) * hidden + col]);
      }
    }
  }
  CHECK(at == values.size());
}

TEST_CASE("one channel that is used in two ways is refused") {
  const auto golden = golden_model("llama");
  const Axes found(golden->checkpoint);
  Program program = found.program.blocks[0];
  // A second reader of what down_proj reads.
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    auto* linear = std::get_if<LinearOp>(&program.ops[i]);
    if (linear == nullptr || linear->weights.front().module.find("down_proj") == std::string::npos) continue;
    LinearOp second = *linear;
    program.values.push_back(program.values[static_cast<std::size_t>(linear->out)]);
    second.out = static_cast<ValueId>(program.values.size() - 1);
    program.ops.push_back(second);
    break;
  }
  CHECK_THROWS_AS(find_axes(program, found.model, program.input), Error);
}
