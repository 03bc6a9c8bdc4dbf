// Every kind of mistake, with its exact place and sentence.
#include "recipes/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

using Lines = std::vector<std::string>;

namespace {

/// The single mistake of a recipe.
std::string mistake(const std::string& text) {
  const Lines lines = mistakes(text);
  CHECK(lines.size() == 1);
  return lines.empty() ? "" : lines[0];
}

bool begins(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }

}  // namespace

TEST_CASE("empty recipes") {
  for (const std::string text : {"", "# only a comment\n", "---\n", "~"}) {
    CHECK(mistakes(text) == Lines{"r.yaml: the recipe is empty"});
  }
  CHECK(mistake("args: {}") == "r.yaml: the recipe has no modifiers");
  CHECK(mistake("a_stage:") == "r.yaml:1:1: the stage 'a_stage' is empty, it should have groups of modifiers");
  CHECK(mistake("a_stage: {b_modifiers: {}}") ==
        "r.yaml:1:11: the group 'b_modifiers' is empty, it should have modifiers");
  CHECK(mistake("[a]") == "r.yaml:1:1: recipe: expected a mapping, found a list");
  CHECK(mistake("W4A16") == "r.yaml:1:1: recipe: expected a mapping, found the text 'W4A16'");
  CHECK(mistake("a_stage: 4") == "r.yaml:1:10: a_stage: expected a mapping, found the integer 4");
  CHECK(mistake("a_stage: {b_modifiers: [x]}") == "r.yaml:1:24: b_modifiers: expected a mapping, found a list");
}

TEST_CASE("keys that llm-compressor ignores in silence") {
  const std::string top = "unknown key '";
  const std::string rest = "': a recipe has 'args' and stages, whose names end in '_stage'";
  CHECK(mistake("default_stge: {}") ==
        "r.yaml:1:1: " + top + "default_stge" + rest + ", did you mean 'default_stage'?");
  CHECK(mistake("stage: {}") == "r.yaml:1:1: " + top + "stage" + rest + ", did you mean 'default_stage'?");
  CHECK(mistake("arg: {}") == "r.yaml:1:1: " + top + "arg" + rest + ", did you mean 'args'?");
  CHECK(mistake("_stage: {}") == "r.yaml:1:1: " + top + "_stage" + rest + ", did you mean '_stage'?");
  CHECK(mistake("something: {}") == "r.yaml:1:1: " + top + "something" + rest);
  CHECK(mistake("x_modifiers: {}") == "r.yaml:1:1: " + top + "x_modifiers" + rest +
                                          "; a group of modifiers stands in a stage such as 'default_stage'");
  CHECK(mistake("GPTQModifier: {}") ==
        "r.yaml:1:1: the modifier GPTQModifier must stand in a group of a stage: default_stage: {default_modifiers: "
        "{GPTQModifier: ...}}");
  const std::string group = ": a stage has groups, whose names end in '_modifiers'";
  CHECK(mistake("a_stage:\n  modifiers: {}") ==
        "r.yaml:2:3: unknown key 'modifiers'" + group + ", did you mean 'default_modifiers'?");
  CHECK(mistake("a_stage:\n  quant_modifers: {}") ==
        "r.yaml:2:3: unknown key 'quant_modifers'" + group + ", did you mean 'quant_modifiers'?");
  CHECK(mistake("a_stage:\n  run_type: oneshot") == "r.yaml:2:3: unknown key 'run_type'" + group);
  CHECK(mistake("a_stage:\n  QuantizationModifier: {}") == "r.yaml:2:3: unknown key 'QuantizationModifier'" + group +
                                                               "; the modifier QuantizationModifier must stand in one");
}

TEST_CASE("modifiers that are not there") {
  const auto of = [](const std::string& name) { return mistake("a_stage:\n  b_modifiers:\n    " + name + ": {}"); };
  for (const std::string name :
       {"GPTQModifier", "AWQModifier", "SmoothQuantModifier", "SparseGPTModifier", "WandaPruningModifier",
        "MagnitudePruningModifier", "ConstantPruningModifier", "REAPPruningModifier", "SpinQuantModifier",
        "QuIPModifier", "AutoRoundModifier", "LogarithmicEqualizationModifier"}) {
    CHECK(of(name) == "r.yaml:3:5: " + name +
                          " is a modifier of llm-compressor that this version does not have; it has "
                          "QuantizationModifier, ShiftModifier");
  }
  CHECK(of("QuantisationModifier") ==
        "r.yaml:3:5: unknown modifier 'QuantisationModifier', did you mean 'QuantizationModifier'?");
  CHECK(of("Foo") == "r.yaml:3:5: unknown modifier 'Foo'; this version has QuantizationModifier, ShiftModifier");
  CHECK(mistake("a_stage: {b_modifiers: {ShiftModifier: 3}}") ==
        "r.yaml:1:40: ShiftModifier: expected a mapping, found the integer 3");
}

TEST_CASE("fields of modifiers") {
  CHECK(mistake(with_fields("scheme: W4A16\ntarget: [Linear]")) ==
        "r.yaml:5:7: unknown field 'target' in QuantizationModifier, did you mean 'targets'?");
  CHECK(begins(mistake(with_fields("scheme: W4A16\nlearning_rate: 3")),
               "r.yaml:5:7: unknown field 'learning_rate' in QuantizationModifier; its fields are ignore, targets,"));
  CHECK(mistake(with_fields("targets: [Linear]")) ==
        "r.yaml:3:5: QuantizationModifier quantizes nothing: give 'scheme' or 'config_groups'");
  CHECK(mistake("a_stage: {b_modifiers: {QuantizationModifier: }}") ==
        "r.yaml:1:25: QuantizationModifier quantizes nothing: give 'scheme' or 'config_groups'");
  CHECK(mistake(with_fields("scheme: W4A16\nconfig_groups: {W8A16: [x]}")) ==
        "r.yaml:5:7: config_groups: give either this or 'scheme', not both");
  CHECK(mistake(with_fields("scheme: W4A61")) == "r.yaml:4:15: unknown preset 'W4A61', did you mean 'W4A16'?");
  CHECK(
      begins(mistake(with_fields("scheme: best")), "r.yaml:4:15: unknown preset 'best'; the presets are UNQUANTIZED"));
  CHECK(mistake(with_fields("scheme: MXFP6A16")) == "r.yaml:4:15: preset 'MXFP6A16': 6-bit floats are not supported");
  CHECK(mistake(with_fields("scheme: 4")) == "r.yaml:4:15: scheme: expected a text, found the integer 4");
  CHECK(begins(mistake(with_fields("scheme: [W4A16]")), "r.yaml:4:15: scheme: expected a text, found a list"));
  CHECK(begins(mistake(with_fields("scheme: {W4A61: [Linear]}")), "r.yaml:4:16: unknown preset 'W4A61'"));
  CHECK(mistake(with_fields("scheme: W4A16\nbypass_divisibility_checks: 1")) ==
        "r.yaml:5:35: bypass_divisibility_checks: expected true or false, found the integer 1");
  CHECK(mistake(with_fields("scheme: W4A16\nstart: [1]")) ==
        "r.yaml:5:14: start: expected a single value, found a list");
  const std::string kv = "scheme: W4A16\nkv_cache_scheme: ";
  CHECK(mistake(with_fields(kv + "{num_bits: 5, type: float}")) ==
        "r.yaml:5:35: kv_cache_scheme.num_bits: 5 is not 4 or 8 for type float");
  CHECK(mistake(with_fields(kv + "{num_bits: 4, type: float, strategy: tensor}")) ==
        "r.yaml:5:35: kv_cache_scheme.num_bits: serving programs have caches of 8 bits, no others");
  CHECK(mistake(with_fields(kv + "{symmetric: false}")) ==
        "r.yaml:5:36: kv_cache_scheme.symmetric: serving programs know no zero points of caches: true");
  CHECK(mistakes(with_fields(kv + "{strategy: token, dynamic: true}")) ==
        Lines{"r.yaml:5:35: kv_cache_scheme.strategy: one scale for all keys and one for all values of a layer are "
              "stored: tensor",
              "r.yaml:5:51: kv_cache_scheme.dynamic: the scales are stored, so they are static: false"});
  CHECK(mistake(with_fields(kv + "{type: float, observer_kwargs: {float8_format: e5m2}}")) ==
        "r.yaml:5:55: kv_cache_scheme.observer_kwargs: caches of 8-bit floats are E4M3");
  CHECK(mistake(with_fields("kv_cache_scheme: 8")) ==
        "r.yaml:4:24: kv_cache_scheme: expected a mapping, found the integer 8");
}

TEST_CASE("targets and ignore") {
  CHECK(mistake(with_fields("scheme: W4A16\ntargets: []")) == "r.yaml:5:16: targets: an empty list matches nothing");
  CHECK(mistake(with_fields("scheme: W4A16\ntargets: [a, '']")) ==
        "r.yaml:5:20: targets: an empty entry matches nothing");
  CHECK(mistake(with_fields("scheme: W4A16\ntargets: [7]")) ==
        "r.yaml:5:17: targets: expected a text, found the integer 7");
  CHECK(mistake(with_fields("scheme: W4A16\nignore: {a: b}")) ==
        "r.yaml:5:15: ignore: expected a text or a list of texts, found a mapping");
  CHECK(mistake(with_fields("scheme: W4A16\nignore: [[a]]")) == "r.yaml:5:16: ignore: expected a text, found a list");
  CHECK(mistake(with_fields("scheme: W4A16\nignore:\n  - 're:('")) ==
        "r.yaml:6:11: ignore: regex '(': missing closing parenthesis at offset 1");
}

TEST_CASE("groups") {
  CHECK(mistake(with_fields("config_groups: {g: {weights: {num_bits: 4}}}")) ==
        "r.yaml:4:23: config_groups.g: the field 'targets' is missing");
  CHECK(
      mistake(with_fields("config_groups: {g: {targets: [a]}}")) ==
      "r.yaml:4:23: config_groups.g: quantizes nothing; to leave modules alone use 'ignore' or the preset UNQUANTIZED");
  CHECK(mistake(with_fields("config_groups: {g: {targets: [a], weight: {}, weights: {}}}")) ==
        "r.yaml:4:41: unknown field 'weight' in config_groups.g, did you mean 'weights'?");
  CHECK(begins(mistake(with_fields("config_groups: {g: [Linear]}")), "r.yaml:4:23: unknown preset 'g'"));
  CHECK(mistake(with_fields("config_groups: {g: }")) ==
        "r.yaml:4:23: config_groups.g: expected a mapping, found nothing");
  CHECK(mistake(with_fields("config_groups: [a]")) == "r.yaml:4:22: config_groups: expected a mapping, found a list");
  CHECK(mistake(with_fields("config_groups: {}")) ==
        "r.yaml:3:5: QuantizationModifier quantizes nothing: give 'scheme' or 'config_groups'");
  const std::string group = "config_groups: {g: {targets: [a], weights: {}, format: ";
  CHECK(mistake(with_fields(group + "pack_quantized}}")) ==
        "r.yaml:4:62: config_groups.g.format: unknown value 'pack_quantized', did you mean 'pack-quantized'?");
  CHECK(mistake(with_fields(group + "mixed-precision}}")) ==
        "r.yaml:4:62: config_groups.g.format: mixed-precision is a whole model's format, a scheme cannot have it");
  CHECK(mistake(with_fields("scheme: {weights: {}, targets: [a]}")).find("unknown field 'targets' in scheme") !=
        std::string::npos);
}

TEST_CASE("arguments") {
  CHECK(mistake(with_args("num_bit: 4")) ==
        "r.yaml:8:13: unknown field 'num_bit' in weights, did you mean 'num_bits'?");
  CHECK(mistake(with_args("num_bits: four")) ==
        "r.yaml:8:23: weights.num_bits: expected an integer, found the text 'four'");
  CHECK(mistake(with_args("num_bits: \"4\"")) ==
        "r.yaml:8:23: weights.num_bits: expected an integer, found the text '4'");
  CHECK(mistake(with_args("num_bits: 4.0")) ==
        "r.yaml:8:23: weights.num_bits: expected an integer, found the number 4.0");
  CHECK(mistake(with_args("num_bits: 010")) ==
        "r.yaml:8:23: weights.num_bits: expected an integer, found the text '010'");
  CHECK(mistake(with_args("num_bits:")) == "r.yaml:8:13: weights.num_bits: expected a value, found nothing");
  CHECK(mistake(with_args("num_bits: 9")) == "r.yaml:8:23: weights.num_bits: 9 is not in 1..8 for type int");
  CHECK(mistake(with_args("num_bits: 99999999999")) == "r.yaml:8:23: weights.num_bits: 99999999999 is not in 1..8");
  CHECK(mistake(with_args("num_bits: 99999999999999999999")) ==
        "r.yaml:8:23: weights.num_bits: expected an integer, found the text '99999999999999999999'");
  CHECK(mistake(with_args("type: fp")) ==
        "r.yaml:8:19: weights.type: unknown value 'fp'; its values are int, float, codebook, block");
  CHECK(mistake(with_args("type: flaot")) == "r.yaml:8:19: weights.type: unknown value 'flaot', did you mean 'float'?");
  CHECK(mistake(with_args("symmetric: maybe")) ==
        "r.yaml:8:24: weights.symmetric: expected true or false, found the text 'maybe'");
  CHECK(mistake(with_args("strategy: chanel")) ==
        "r.yaml:8:23: weights.strategy: unknown value 'chanel', did you mean 'channel'?");
  CHECK(mistake(with_args("strategy: channel\ngroup_size: 128")) ==
        "r.yaml:9:25: weights.group_size: strategy channel has none");
  CHECK(mistake(with_args("strategy: group")) == "r.yaml:8:13: weights.group_size: strategy group needs one");
  CHECK(mistake(with_args("group_size: -2")) == "r.yaml:8:25: weights.group_size: -2 is neither -1 nor positive");
  CHECK(mistake(with_args("block_structure: [1]")) ==
        "r.yaml:8:30: weights.block_structure: expected [rows, columns], two positive integers, found a list");
  CHECK(mistake(with_args("block_structure: 12x")) ==
        "r.yaml:8:30: weights.block_structure: expected [rows, columns], two positive integers, found the text '12x'");
  CHECK(mistakes(with_args("block_structure: [1, x]")).size() == 2);
  CHECK(mistake(with_args("dynamic: sometimes")) ==
        "r.yaml:8:22: weights.dynamic: expected true, false or local, found the text 'sometimes'");
  CHECK(mistake(with_args("actorder: first")) ==
        "r.yaml:8:23: weights.actorder: expected static, weight, dynamic, group, true, false or null, found the text "
        "'first'");
  CHECK(mistake(with_args("scale_dtype: bfloat61")) ==
        "r.yaml:8:26: weights.scale_dtype: unknown type 'bfloat61', did you mean 'bfloat16'?");
  CHECK(begins(mistake(with_args("zp_dtype: [int8]")), "r.yaml:8:23: weights.zp_dtype: expected a text, found a list"));
  CHECK(mistake(with_fields("config_groups: {g: {targets: [a], weights: 4}}")) ==
        "r.yaml:4:50: weights: expected a mapping, found the integer 4");
}

TEST_CASE("observers and their arguments") {
  CHECK(mistake(with_args("observer: mnimax")) ==
        "r.yaml:8:23: weights.observer: unknown observer 'mnimax', did you mean 'minmax'?");
  CHECK(mistake(with_args("observer: mse\nobserver_kwargs: {gird: 3}")) ==
        "r.yaml:9:31: weights.observer_kwargs.gird: observer mse has no such argument, did you mean 'grid'?");
  CHECK(mistake(with_args("observer: mse\nobserver_kwargs: {grid: 0}")) ==
        "r.yaml:9:31: weights.observer_kwargs.grid: must be from 1 to 10000");
  CHECK(mistake(with_args("observer_kwargs: {symmetric_range: wide}")) ==
        "r.yaml:8:31: weights.observer_kwargs.symmetric_range: must be one of standard, restricted, full");
  CHECK(mistake(with_args("observer_kwargs: {absmax: 1}")) ==
        "r.yaml:8:30: weights.observer_kwargs: absmax is for static activations");
  CHECK(mistake(with_args("observer_kwargs: 3")) ==
        "r.yaml:8:30: weights.observer_kwargs: expected a mapping, found the integer 3");
  CHECK(mistake(with_args("observer_kwargs: {grid: [1]}")) ==
        "r.yaml:8:37: weights.observer_kwargs.grid: expected a single value, found a list");
  CHECK(mistake(with_fields("scheme: W4A16\nweight_observer: mes")) ==
        "r.yaml:5:24: weight_observer: unknown observer 'mes', did you mean 'mse'?");
  CHECK(mistake(with_fields("scheme: W4A16\nobserver: mse")) ==
        "r.yaml:5:17: observer: expected a mapping, found the text 'mse'");
  CHECK(mistake(with_fields("scheme: W4A16\nobserver: {weight: mse}")) ==
        "r.yaml:5:18: unknown field 'weight' in observer, did you mean 'weights'?");
  CHECK(mistake(with_fields("scheme: W4A16\nweight_observer: mse\nobserver: {weights: mse}")) ==
        "r.yaml:6:27: observer.weights: give either this or 'weight_observer', not both");
  CHECK(mistake(with_fields("scheme: W4A16\ninput_observer: mse")) ==
        "r.yaml:5:23: an observer of input_activations, but no scheme quantizes these");
  CHECK(
      mistake(with_fields("scheme: W8A8\ninput_observer: mse")) ==
      "r.yaml:5:23: input_activations.observer: dynamic numbers take the range of the values at hand, they cannot use "
      "'mse'");
}

TEST_CASE("what weights and activations cannot have") {
  CHECK(mistakes(with_args("strategy: token\ndynamic: true")) ==
        Lines{"r.yaml:8:23: weights.strategy: weights have no tokens and no heads",
              "r.yaml:9:22: weights.dynamic: weights are known beforehand, their range cannot be dynamic"});
  const std::string inputs = "scheme:\n  input_activations: ";
  CHECK(mistake(with_fields(inputs + "{strategy: channel}")) ==
        "r.yaml:5:39: input_activations.strategy: activations have tensor, token, group, tensor_group or attn_head");
  CHECK(mistake(with_fields(inputs + "{actorder: static}")) ==
        "r.yaml:5:39: input_activations.actorder: activations have no order");
}

TEST_CASE("mistakes in an algorithm's own parameters") {
  const auto of = [](const std::string& body) {
    return mistake("a_stage: {b_modifiers: {ShiftModifier: " + body + "}}");
  };
  CHECK(of("{strength: much}") == "r.yaml:1:51: strength: expected a number, found the text 'much'");
  CHECK(of("{steps: 1.5}") == "r.yaml:1:48: steps: expected an integer, found the number 1.5");
  CHECK(of("{both: 1}") == "r.yaml:1:47: both: expected true or false, found the integer 1");
  CHECK(of("{mode: true}") == "r.yaml:1:47: mode: expected a text, found the boolean true");
  CHECK(of("{strenght: 1}") == "r.yaml:1:41: unknown field 'strenght' in ShiftModifier, did you mean 'strength'?");
  CHECK(begins(of("{scheme: W4A16}"), "r.yaml:1:41: unknown field 'scheme' in ShiftModifier"));
  CHECK(of("{strength: -1}") == "r.yaml:1:51: ShiftModifier: strength: must not be negative");
}

TEST_CASE("all mistakes at once, in the order of the file") {
  CHECK(mistakes("b_stge: {}\na_stage:\n  b_modifiers:\n    GPTQModifier: {}\n    QuantizationModifier:\n      ignore: "
                 "[3]\n      scheme: W4A61\n      targts: x\n") ==
        Lines{"r.yaml:1:1: unknown key 'b_stge': a recipe has 'args' and stages, whose names end in '_stage', did you "
              "mean 'b_stage'?",
              "r.yaml:4:5: GPTQModifier is a modifier of llm-compressor that this version does not have; it has "
              "QuantizationModifier, ShiftModifier",
              "r.yaml:6:16: ignore: expected a text, found the integer 3",
              "r.yaml:7:15: unknown preset 'W4A61', did you mean 'W4A16'?",
              "r.yaml:8:7: unknown field 'targts' in QuantizationModifier, did you mean 'targets'?"});
}

TEST_CASE("duplicate keys, tags, aliases, several documents, broken YAML") {
  CHECK(mistake(with_fields("scheme: W4A16\nignore: [a]\nignore: [b]")) ==
        "r.yaml:6:7: the key 'ignore' is there twice");
  CHECK(mistake(with_fields("scheme: !!str W4A16")) ==
        "r.yaml:4:15: recipes have no tags, remove 'tag:yaml.org,2002:str'");
  CHECK(mistake("a_stage: &a {x: *a}") == "r.yaml:1:17: an alias may not refer to a node that contains it");
  CHECK(mistake("a_stage: *b") == "r.yaml:1:10: not valid YAML: the referenced anchor is not defined");
  CHECK(mistake("a_stage: {}\n---\nb_stage: {}") ==
        "r.yaml:2:1: a recipe is one YAML document, a second one begins here");
  CHECK(begins(mistake("a_stage: {\n"), "r.yaml:2:1: not valid YAML: "));
  CHECK(begins(mistake("a_stage:\n  - x\n y: 3\n"), "r.yaml:3:2: not valid YAML: "));
  CHECK(mistake("[a]: b") == "r.yaml:1:1: a key must be a name");
  CHECK(mistakes("a_stage: {<<: 3}") ==
        Lines{"r.yaml:1:1: the stage 'a_stage' is empty, it should have groups of modifiers",
              "r.yaml:1:11: '<<' takes a mapping or a list of mappings"});
}

TEST_CASE("columns count characters") {
  CHECK(mistake("a_stage: {b_modifiers: {ShiftModifier: {mode: 'äöü€😀', steps: x}}}") ==
        "r.yaml:1:63: steps: expected an integer, found the text 'x'");
}

TEST_CASE("the error is a recipe error with a hint") {
  try {
    parse("x: 1");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::recipe);
    CHECK(error.hint().find("docs/recipes.md") != std::string::npos);
  }
}
