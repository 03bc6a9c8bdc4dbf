// Recipes that can be read, and what they say.
#include "recipes/support.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

using Texts = std::vector<std::string>;

namespace {

const QuantArgs& weights_of(const Recipe& recipe) {
  return recipe.modifiers.at(0).schemes.at(0).scheme.weights.value();
}

}  // namespace

TEST_CASE("a preset for the default targets") {
  const Recipe recipe = parse(
      "default_stage:\n  default_modifiers:\n    QuantizationModifier:\n      scheme: w4a16\n      ignore: [lm_head, "
      "\"re:.*gate$\"]\n");
  CHECK(recipe.name == "r");
  REQUIRE(recipe.modifiers.size() == 1);
  const RecipeModifier& modifier = recipe.modifiers[0];
  CHECK(modifier.type == "QuantizationModifier");
  CHECK(modifier.stage == "default_stage");
  CHECK(modifier.group == "default_modifiers");
  CHECK(modifier.where.to_string() == "r.yaml:3:5");
  CHECK_FALSE(modifier.bypass_divisibility_checks);
  CHECK(modifier.parameters.empty());
  REQUIRE(modifier.ignore.size() == 2);
  CHECK(modifier.ignore[0].text == "lm_head");
  CHECK(modifier.ignore[0].where.to_string() == "r.yaml:5:16");
  CHECK(modifier.ignore[1].text == "re:.*gate$");
  CHECK(modifier.ignore[1].where.to_string() == "r.yaml:5:25");
  REQUIRE(modifier.schemes.size() == 1);
  const RecipeScheme& scheme = modifier.schemes[0];
  CHECK(scheme.name == "group_0");
  CHECK(scheme.preset == "W4A16");
  CHECK(scheme.where.to_string() == "r.yaml:4:15");
  CHECK(scheme.scheme.targets == Texts{"Linear"});
  REQUIRE(scheme.targets.size() == 1);
  CHECK(scheme.targets[0].text == "Linear");
  Scheme expected = *preset_scheme("W4A16");
  expected.targets = {"Linear"};
  CHECK(scheme.scheme == expected);
}

TEST_CASE("targets may be one text") {
  const Recipe recipe = parse(with_fields("scheme: FP8_DYNAMIC\ntargets: \"re:.*proj$\"\nignore: lm_head"));
  CHECK(recipe.modifiers[0].schemes[0].scheme.targets == Texts{"re:.*proj$"});
  CHECK(recipe.modifiers[0].schemes[0].targets[0].where.to_string() == "r.yaml:5:16");
  CHECK(recipe.modifiers[0].ignore.size() == 1);
}

TEST_CASE("presets with their targets") {
  const Recipe recipe = parse(with_fields("scheme:\n  W8A8: [\"re:.*attn.*\"]\n  W4A16: Linear\ntargets: [Linear]"));
  const auto& schemes = recipe.modifiers[0].schemes;
  REQUIRE(schemes.size() == 2);
  CHECK(schemes[0].name == "group_0");
  CHECK(schemes[0].preset == "W8A8");
  CHECK(schemes[0].scheme.targets == Texts{"re:.*attn.*"});
  CHECK(schemes[0].scheme.input_activations->dynamic == Dynamic::yes);
  CHECK(schemes[1].name == "group_1");
  CHECK(schemes[1].preset == "W4A16");
  CHECK(schemes[1].scheme.targets == Texts{"Linear"});
}

TEST_CASE("a scheme written out, with the modifier's targets") {
  const Recipe recipe = parse(with_fields("targets: [Embedding]\nscheme:\n  weights: {num_bits: 3, group_size: 64}"));
  const RecipeScheme& scheme = recipe.modifiers[0].schemes.at(0);
  CHECK(scheme.preset.empty());
  CHECK(scheme.scheme.targets == Texts{"Embedding"});
  CHECK(scheme.scheme.weights->strategy == Strategy::group);
}

TEST_CASE("groups: schemes, presets and formats") {
  const Recipe recipe = parse(with_fields(
      "config_groups:\n  first:\n    targets: [a, b]\n    weights: {num_bits: 4, group_size: 32}\n    "
      "format: pack-quantized\n  w8a16: Linear\n  third:\n    targets: [c]\n    weights: {num_bits: 8, type: float}\n  "
      "  "
      "input_activations: {num_bits: 8, type: float, dynamic: true, strategy: token}\n    output_activations: "
      "{num_bits: 8, observer_kwargs: {absmax: 3}}\nbypass_divisibility_checks: true"));
  const RecipeModifier& modifier = recipe.modifiers[0];
  CHECK(modifier.bypass_divisibility_checks);
  REQUIRE(modifier.schemes.size() == 3);
  CHECK(modifier.schemes[0].name == "first");
  CHECK(modifier.schemes[0].scheme.format == "pack-quantized");
  CHECK(modifier.schemes[0].scheme.targets == Texts{"a", "b"});
  CHECK(modifier.schemes[0].where.to_string() == "r.yaml:5:9");
  CHECK(modifier.schemes[1].name == "w8a16");
  CHECK(modifier.schemes[1].preset == "W8A16");
  CHECK_FALSE(modifier.schemes[1].scheme.format.has_value());
  CHECK(modifier.schemes[2].scheme.input_activations->strategy == Strategy::token);
  const QuantArgs& output = *modifier.schemes[2].scheme.output_activations;
  CHECK(std::get<double>(output.observer_kwargs.at("absmax")) == 3.0);
}

TEST_CASE("every argument") {
  const QuantArgs args = weights_of(parse(with_args(
      "num_bits: 4\ntype: INT\nsymmetric: false\nstrategy: Group\ngroup_size: 128\nblock_structure: null\ndynamic: "
      "false\nactorder: static\nscale_dtype: torch.bfloat16\nzp_dtype: int8\nobserver: mse\nobserver_kwargs: {grid: "
      "50, norm: 2, averaging_constant: 0.5}")));
  QuantArgs expected;
  expected.num_bits = 4;
  expected.symmetric = false;
  expected.strategy = Strategy::group;
  expected.group_size = 128;
  expected.actorder = ActOrder::weight;
  expected.scale_dtype = DType::BF16;
  expected.zp_dtype = DType::I8;
  expected.observer = "mse";
  expected.observer_kwargs = {{"grid", std::int64_t{50}}, {"norm", 2.0}, {"averaging_constant", 0.5}};
  CHECK(args == expected);
}

TEST_CASE("arguments that are not given have their defaults") {
  CHECK(weights_of(parse(with_args("num_bits: 8"))) == QuantArgs{});
  CHECK(weights_of(parse(with_args("{}"))) == QuantArgs{});
}

TEST_CASE("forms of block_structure, actorder, dynamic and group_size") {
  const std::array<std::uint64_t, 2> block = {128, 64};
  CHECK(weights_of(parse(with_args("block_structure: [128, 64]"))).block_structure == block);
  CHECK(weights_of(parse(with_args("block_structure: 128x64\nstrategy: block"))).block_structure == block);
  const auto order = [](const std::string& text) {
    return weights_of(parse(with_args("group_size: 8\nactorder: " + text))).actorder;
  };
  CHECK(order("weight") == ActOrder::weight);
  CHECK(order("dynamic") == ActOrder::group);
  CHECK(order("group") == ActOrder::group);
  CHECK(order("true") == ActOrder::group);
  CHECK(order("false") == ActOrder::none);
  CHECK_FALSE(order("null").has_value());
  CHECK(weights_of(parse(with_args("group_size: -1"))).strategy == Strategy::channel);
  const Recipe local = parse(with_fields("scheme: NVFP4"));
  CHECK(local.modifiers[0].schemes[0].scheme.input_activations->dynamic == Dynamic::local);
  const Recipe written =
      parse(with_fields("scheme:\n  input_activations: {num_bits: 4, type: float, strategy: tensor_group, group_size: "
                        "16, dynamic: local}"));
  CHECK(written.modifiers[0].schemes[0].scheme.input_activations->dynamic == Dynamic::local);
}

TEST_CASE("observers given for the whole modifier") {
  for (const std::string field : {"weight_observer: mse_search", "observer: {weights: mse_search}"}) {
    const Recipe recipe = parse(with_fields("scheme: W4A16\n" + field));
    CHECK(weights_of(recipe).observer == "mse_search");
  }
  const Recipe both = parse(with_fields("scheme: FP8\nobserver: {weights: percentile}\ninput_observer: minmax"));
  CHECK(weights_of(both).observer == "percentile");
  CHECK(both.modifiers[0].schemes[0].scheme.input_activations->observer == "minmax");
  // A dynamic range is min-max anyway.
  const Recipe dynamic = parse(with_fields("scheme: W8A8\ninput_observer: minmax"));
  CHECK_FALSE(dynamic.modifiers[0].schemes[0].scheme.input_activations->observer.has_value());
}

TEST_CASE("empty values are as good as none, and llm-compressor's schedule fields have no effect") {
  const Recipe recipe = parse(with_fields(
      "scheme: W4A16\nconfig_groups: null\nkv_cache_scheme: ~\ntargets:\nignore: null\nweight_observer:\nobserver: "
      "null\nindex: null\ngroup: quant\nstart: 0.0\nend: 10\nupdate: 1"));
  CHECK(same(recipe, parse(with_fields("scheme: W4A16"))));
}

TEST_CASE("stages, groups and modifiers keep their order") {
  const Recipe recipe = parse(
      "z_stage_1:\n  b_modifiers:\n    ShiftModifier: {}\n    QuantizationModifier: {scheme: W4A16, targets: [x]}\n  "
      "a_modifiers:\n    QuantizationModifier: {scheme: W8A16}\na_stage:\n  c_modifiers:\n    ShiftModifier:\n");
  REQUIRE(recipe.modifiers.size() == 4);
  CHECK(recipe.modifiers[0].type == "ShiftModifier");
  CHECK(recipe.modifiers[1].schemes[0].preset == "W4A16");
  CHECK(recipe.modifiers[2].schemes[0].preset == "W8A16");
  CHECK(recipe.modifiers[2].stage == "z_stage_1");
  CHECK(recipe.modifiers[2].group == "a_modifiers");
  CHECK(recipe.modifiers[3].stage == "a_stage");
  CHECK(recipe.modifiers[3].schemes.empty());
}

TEST_CASE("an algorithm's own parameters") {
  const auto parameters = [](const std::string& body) {
    return parse("a_stage: {b_modifiers: {ShiftModifier: " + body + "}}").modifiers.at(0).parameters;
  };
  const Parameters defaults = {
      {"strength", 0.5}, {"steps", std::int64_t{20}}, {"both", true}, {"mode", std::string("mean")}};
  CHECK(parameters("{}") == defaults);
  CHECK(parameters("{strength: null, steps: ~}") == defaults);
  const Parameters given = {
      {"strength", 2.0}, {"steps", std::int64_t{-3}}, {"both", false}, {"mode", std::string("max")}};
  CHECK(parameters("{strength: 2, steps: -3, both: no, mode: max, ignore: [lm_head]}") == given);
}

TEST_CASE("recipes as llm-compressor writes them") {
  const Recipe saved = parse(
      "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      config_groups:\n        group_0:\n          "
      "targets: [Linear]\n          weights: {num_bits: 8, type: float, symmetric: true, group_size: null, strategy: "
      "channel,\n            block_structure: null, dynamic: false, actorder: null, scale_dtype: null, zp_dtype: "
      "null,\n "
      "           observer: memoryless_minmax, observer_kwargs: {}}\n          input_activations: {num_bits: 8, type: "
      "float, symmetric: true, group_size: null,\n            strategy: token, block_structure: null, dynamic: true, "
      "actorder: null, observer: null,\n            observer_kwargs: {}}\n          output_activations: null\n         "
      " "
      "format: null\n      targets: [Linear]\n      ignore: [lm_head, 're:.*mlp.gate$']\n      "
      "bypass_divisibility_checks: false\n");
  const RecipeScheme& scheme = saved.modifiers[0].schemes.at(0);
  CHECK(scheme.scheme.weights->strategy == Strategy::channel);
  CHECK(scheme.scheme.input_activations->dynamic == Dynamic::yes);
  const Recipe merged = parse(
      "default_stage_0:\n  default_modifiers:\n    QuantizationModifier:\n      targets: [Linear]\n      ignore: "
      "[lm_head]\n      scheme: NVFP4A16\n      bypass_divisibility_checks: false\n");
  CHECK(merged.modifiers[0].stage == "default_stage_0");
  CHECK(merged.modifiers[0].schemes[0].preset == "NVFP4A16");
}

TEST_CASE("JSON, in lines and in one line") {
  const std::string body =
      R"({"scheme": {"W4A16": ["Linear"]}, "ignore": ["lm_head", "re:.*\\.gate$"], "start": null})";
  const Recipe one = parse(R"({"a_stage": {"b_modifiers": {"QuantizationModifier": )" + body + "}}}");
  CHECK(one.modifiers[0].schemes[0].preset == "W4A16");
  CHECK(one.modifiers[0].ignore[1].text == "re:.*\\.gate$");
  const Recipe lines = parse("{\n\t\"a_stage\": {\n\t\t\"b_modifiers\": {\n\t\t\t\"QuantizationModifier\": " + body +
                             "\n\t\t}\n\t}\n}\n");
  CHECK(same(one, lines));
  CHECK(lines.modifiers[0].schemes[0].where.line == 4);
  std::string padding;
  for (int i = 0; i < 500; ++i) padding += R"("model.layers.)" + std::to_string(i) + R"(.mlp.gate", )";
  const Recipe longer = parse(R"({"a_stage": {"b_modifiers": {"QuantizationModifier": {"ignore": [)" + padding +
                              R"("lm_head"], "scheme": "W4A16"}}}})");
  CHECK(longer.modifiers[0].ignore.size() == 501);
}

TEST_CASE("anchors, aliases and merge keys") {
  const Recipe recipe = parse(
      "a_stage:\n  b_modifiers:\n    QuantizationModifier:\n      ignore: &kept [lm_head]\n      config_groups:\n      "
      "  "
      "one:\n          targets: [a]\n          weights: &numbers {num_bits: 4, group_size: 128}\n        two:\n        "
      "  "
      "targets: [b]\n          weights: {<<: *numbers, num_bits: 8}\n        three:\n          targets: *kept\n        "
      "  "
      "weights: {<<: [{symmetric: false}, *numbers]}\n");
  const auto& schemes = recipe.modifiers[0].schemes;
  REQUIRE(schemes.size() == 3);
  CHECK(schemes[1].scheme.weights->num_bits == 8);
  CHECK(schemes[1].scheme.weights->group_size == 128);
  CHECK_FALSE(schemes[2].scheme.weights->symmetric);
  CHECK(schemes[2].scheme.weights->num_bits == 4);
  CHECK(schemes[2].scheme.targets == Texts{"lm_head"});
}

TEST_CASE("a mark of byte order and Windows line ends") {
  const Recipe recipe = parse(
      "\xEF\xBB\xBF"
      "a_stage:\r\n  b_modifiers:\r\n    QuantizationModifier:\r\n      scheme: W4A16\r\n");
  CHECK(recipe.modifiers[0].schemes[0].where.to_string() == "r.yaml:4:15");
  CHECK(recipe.modifiers[0].stage == "a_stage");
}

TEST_CASE("files") {
  const TempDir dir;
  write_file(dir / "my recipe.yaml", with_fields("scheme: W4A16"));
  const Recipe recipe = load_recipe(dir / "my recipe.yaml", {}, registry());
  CHECK(recipe.name == "my recipe");
  CHECK(recipe.text == with_fields("scheme: W4A16"));
  CHECK(recipe.modifiers[0].where.file == (dir / "my recipe.yaml").string());
  const auto code = [](const std::filesystem::path& path) {
    try {
      load_recipe(path, {}, registry());
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find(path.string()) != std::string::npos);
      return error.code();
    }
    return ErrorCode::internal;
  };
  CHECK(code(dir / "absent.yaml") == ErrorCode::io);
  CHECK(code(dir.path()) == ErrorCode::io);
  write_file(dir / "large.yaml", "# " + std::string(1 << 20, 'x'));
  CHECK(code(dir / "large.yaml") == ErrorCode::recipe);
  write_file(dir / "empty.yaml", "");
  CHECK(code(dir / "empty.yaml") == ErrorCode::recipe);
}
