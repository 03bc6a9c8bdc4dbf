// SmoothQuantModifier and AWQModifier as recipes give them.
#include "quant/registry.h"
#include "recipes/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Registry& builtin() {
  static const Registry filled = [] {
    Registry result;
    register_builtin_algorithms(result);
    return result;
  }();
  return filled;
}

Recipe parse_builtin(const std::string& text) { return parse_recipe(text, "r.yaml", {}, builtin()); }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  try {
    parse_builtin(text);
  } catch (const Error& error) {
    std::istringstream stream(error.what());
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
  }
  return lines;
}

std::string line_of(const std::string& text) {
  const auto lines = lines_of(text);
  return lines.size() == 1 ? lines[0] : std::to_string(lines.size()) + " lines";
}

/// `modifier` as flow YAML in line 3, then a quantizer.
std::string then_quantize(const std::string& modifier) {
  return "a_stage:\n  b_modifiers:\n    " + modifier + "\n    QuantizationModifier: {scheme: W4A16}\n";
}

}  // namespace

TEST_CASE("a transform has parameters and no schemes") {
  const Recipe recipe = parse_builtin(then_quantize(
      "SmoothQuantModifier: {smoothing_strength: 0.8, mappings: [[['re:.*q_proj', a], 're:.*norm'], {smooth_layer: x, "
      "balance_layers: [y]}], ignore: [lm_head], num_calibration_steps: 8}"));
  REQUIRE(recipe.modifiers.size() == 2);
  const RecipeModifier& smooth = recipe.modifiers[0];
  CHECK(smooth.schemes.empty());
  CHECK(smooth.ignore.at(0).text == "lm_head");
  CHECK(std::get<double>(smooth.parameters.at("smoothing_strength")) == 0.8);
  CHECK(std::get<std::string>(smooth.parameters.at("mappings")) ==
        R"([[["re:.*q_proj","a"],"re:.*norm"],{"smooth_layer":"x","balance_layers":["y"]}])");
  CHECK(std::get<std::string>(smooth.parameters.at("ignore")) == R"(["lm_head"])");
  CHECK(std::get<std::int64_t>(smooth.parameters.at("num_calibration_steps")) == 8);
  CHECK(recipe.modifiers[1].schemes.size() == 1);
}

TEST_CASE("unions keep the type that was written") {
  const auto strength = [](const std::string& text) {
    return parse_builtin(then_quantize("SmoothQuantModifier: {smoothing_strength: " + text + "}"))
        .modifiers[0]
        .parameters.at("smoothing_strength");
  };
  CHECK(strength("auto") == KwValue(std::string("auto")));
  CHECK(strength("1") == KwValue(std::int64_t{1}));
  CHECK(strength("~") == KwValue(0.5));
  const auto duo = [](const std::string& text) {
    return parse_builtin(then_quantize("AWQModifier: {duo_scaling: " + text + "}"))
        .modifiers[0]
        .parameters.at("duo_scaling");
  };
  CHECK(duo("\"both\"") == KwValue(std::string("both")));
  CHECK(duo("false") == KwValue(false));
  CHECK(duo("null") == KwValue(true));
}

TEST_CASE("AWQModifier with a scheme means a QuantizationModifier after it") {
  const Recipe old = parse_builtin(
      "a_stage: {b_modifiers: {AWQModifier: {targets: [Linear], scheme: W4A16_ASYM, ignore: [lm_head], n_grid: 10, "
      "bypass_divisibility_checks: true}}}");
  const Recipe current = parse_builtin(
      "a_stage: {b_modifiers: {AWQModifier: {ignore: [lm_head], n_grid: 10}, QuantizationModifier: {targets: [Linear], "
      "scheme: W4A16_ASYM, ignore: [lm_head], bypass_divisibility_checks: true}}}");
  CHECK(same(old, current));
  REQUIRE(old.modifiers.size() == 2);
  CHECK(old.modifiers[1].where.line == old.modifiers[0].where.line);
  CHECK(old.modifiers[1].stage == "a_stage");
}

TEST_CASE("AWQModifier needs a quantizer, wherever it stands after it") {
  CHECK(line_of("a_stage: {b_modifiers: {AWQModifier: }}") ==
        "r.yaml:1:25: AWQModifier prepares weights for a quantizer, but none follows: add a QuantizationModifier after "
        "it, or give it a scheme");
  CHECK(lines_of("a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16}, AWQModifier: }}").size() == 1);
  CHECK_NOTHROW(parse_builtin(
      "a_stage: {b_modifiers: {AWQModifier: }}\nc_stage: {d_modifiers: {QuantizationModifier: {scheme: W4A16}}}"));
  CHECK(line_of("a_stage: {b_modifiers: {AWQModifier: {targets: [Linear]}}}") ==
        "r.yaml:1:25: AWQModifier quantizes nothing: give 'scheme' or 'config_groups'");
}

TEST_CASE("mistakes in transforms have a place and a remedy") {
  const auto of = [](const std::string& modifier) { return line_of(then_quantize(modifier)); };
  CHECK(of("SmoothQuantModifier: {smoothing_strenght: 1}") ==
        "r.yaml:3:27: unknown field 'smoothing_strenght' in SmoothQuantModifier, did you mean 'smoothing_strength'?");
  CHECK(of("SmoothQuantModifier: {smoothing_strength: 1.5}") ==
        "r.yaml:3:47: SmoothQuantModifier: smoothing_strength: must be a number from 0 to 1, or 'auto'");
  CHECK(of("SmoothQuantModifier: {smoothing_strength: aut}") ==
        "r.yaml:3:47: SmoothQuantModifier: smoothing_strength: unknown value 'aut', did you mean 'auto'?");
  CHECK(of("SmoothQuantModifier: {algorithm: smothquant}") ==
        "r.yaml:3:38: SmoothQuantModifier: algorithm: unknown value 'smothquant', did you mean 'smoothquant'?");
  CHECK(of("SmoothQuantModifier: {scheme: W8A8}").find("unknown field 'scheme' in SmoothQuantModifier") !=
        std::string::npos);
  CHECK(of("AWQModifier: {duo_scaling: bth}") ==
        "r.yaml:3:32: AWQModifier: duo_scaling: unknown value 'bth', did you mean 'both'?");
  CHECK(of("AWQModifier: {n_grid: 2}") == "r.yaml:3:27: AWQModifier: n_grid: must be an integer from 3 to 10000");
  CHECK(of("AWQModifier: {loss: grm}") == "r.yaml:3:25: AWQModifier: loss: unknown value 'grm', did you mean 'gram'?");
  CHECK(of("AWQModifier: {producers: [norm, vlue]}") ==
        "r.yaml:3:30: AWQModifier: producers: unknown value 'vlue', did you mean 'value'?");
  CHECK(of("AWQModifier: {mappings: 3}") ==
        "r.yaml:3:29: AWQModifier: mappings: expected a list with at least one mapping");
  CHECK(of("AWQModifier: {mappings: [[a, b, c]]}") ==
        "r.yaml:3:29: AWQModifier: mappings[0]: expected [[balance layers], smooth layer], or a mapping with "
        "smooth_layer and balance_layers");
  CHECK(of("AWQModifier: {mappings: [{smooth_layers: a, balance_layers: [b]}]}") ==
        "r.yaml:3:29: AWQModifier: mappings[0]: unknown key 'smooth_layers', did you mean 'smooth_layer'?");
  CHECK(of("AWQModifier: {mappings: [[[a], 7]]}") ==
        "r.yaml:3:29: AWQModifier: mappings[0]: the smooth layer must be one text");
  CHECK(of("AWQModifier: {mappings: [[['re:('], b]]}").find("mappings[0].balance_layers: regex '(':") !=
        std::string::npos);
}

TEST_CASE("a cache may be quantized with linears, or alone") {
  const std::string cache = "kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false}";
  const Recipe both = parse(with_fields("scheme: W4A16\n" + cache));
  REQUIRE(both.modifiers.at(0).kv_cache);
  CHECK(describe(*both.modifiers[0].kv_cache) == "fp8-e4m3 tensor");
  CHECK(both.modifiers[0].schemes.size() == 1);
  const Recipe alone = parse(with_fields("kv_cache_scheme: {num_bits: 8}"));
  CHECK(alone.modifiers.at(0).schemes.empty());
  CHECK(describe(alone.modifiers[0].kv_cache.value()) == "int8 sym tensor");
  CHECK_FALSE(parse(with_fields("scheme: W4A16\nkv_cache_scheme: ~")).modifiers.at(0).kv_cache);
}
