// Variables: args, settings, substitution, and the text that is stored.
#include "recipes/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

using Lines = std::vector<std::string>;

namespace {

const QuantArgs& weights_of(const Recipe& recipe) {
  return recipe.modifiers.at(0).schemes.at(0).scheme.weights.value();
}

/// A recipe with these `args` lines and these fields of its modifier.
std::string with_variables(const std::string& args, const std::string& fields) {
  return "args: {" + args + "}\n" + with_fields(fields);
}

/// The recipe, after checking that its stored text says the same without any setting.
Recipe stable(const std::string& text, const RecipeVariables& variables = {}) {
  Recipe recipe = parse(text, variables);
  const Recipe again = parse(recipe.text);
  CHECK(same(recipe, again));
  CHECK(again.text == recipe.text);
  return recipe;
}

std::string ignored(const std::string& args, const std::string& value, const RecipeVariables& variables = {}) {
  return stable(with_variables(args, "scheme: W4A16\nignore: " + value), variables).modifiers[0].ignore.at(0).text;
}

}  // namespace

TEST_CASE("a whole value takes the type of its variable") {
  const std::string text = with_variables(
      "bits: 3, size: 64, sym: false, fmt: int",
      "scheme:\n  weights:\n    num_bits: $bits\n    group_size: ${size}\n    symmetric: $sym\n    type: $fmt");
  const QuantArgs args = weights_of(stable(text));
  CHECK(args.num_bits == 3);
  CHECK(args.group_size == 64);
  CHECK_FALSE(args.symmetric);
  CHECK(mistakes(with_variables("bits: '3'", "scheme: {weights: {num_bits: $bits}}")) ==
        Lines{"r.yaml:5:36: weights.num_bits: expected an integer, found the text '3'"});
  CHECK(mistakes(with_variables("bits: 3", "scheme: {weights: {num_bits: \"$bits\"}}")) ==
        Lines{"r.yaml:5:36: weights.num_bits: expected an integer, found the text '3'"});
}

TEST_CASE("variables within a value") {
  CHECK(ignored("part: mlp, n: 3", "'re:.*$part.up${n}_proj$'") == "re:.*mlp.up3_proj$");
  CHECK(ignored("part: mlp", "re:.*${part}_x") == "re:.*mlp_x");
  CHECK(ignored("part: mlp", "[$part]") == "mlp");
  CHECK(ignored("a: x, b: y", "\"$a$b\"") == "xy");
}

TEST_CASE("settings come first") {
  const std::string text = with_variables("preset: W4A16, keep: lm_head", "scheme: $preset\nignore: [$keep]");
  const Recipe recipe = stable(text, {{"preset", "W8A16"}});
  CHECK(recipe.modifiers[0].schemes[0].preset == "W8A16");
  CHECK(recipe.text == with_variables("preset: W8A16, keep: lm_head", "scheme: W8A16\nignore: [lm_head]"));
}

TEST_CASE("variables without a default must be set") {
  const std::string text = "args:\n  bits:\n" + with_fields("scheme: {weights: {num_bits: $bits}}");
  CHECK(weights_of(stable(text, {{"bits", "5"}})).num_bits == 5);
  CHECK(mistakes(text) == Lines{"r.yaml:6:36: the variable 'bits' must be set: --set bits=VALUE"});
  // Not declared at all, but set.
  CHECK(weights_of(stable(with_fields("scheme: {weights: {num_bits: $bits}}"), {{"bits", "2"}})).num_bits == 2);
}

TEST_CASE("a dollar is a dollar unless it begins a name") {
  CHECK(ignored("x: y", "\"re:.*q_proj$\"") == "re:.*q_proj$");
  CHECK(ignored("x: y", "\"re:(a$|b$)[$]\"") == "re:(a$|b$)[$]");
  CHECK(ignored("x: y", "\"re:a$1\"") == "re:a$1");
  CHECK(ignored("x: y", "a$$x") == "a$x");
  CHECK(ignored("x: y", "a$${x}") == "a${x}");
  CHECK(ignored("x: y", "a$$$x") == "a$y");
  CHECK(ignored("x: y", "a$$$$x$") == "a$$x$");
  CHECK(ignored("x: a$$b", "$x") == "a$b");
  CHECK(ignored("x: y", "$x$$z") == "y$z");
  CHECK(ignored("x: y", "$x$z", {{"z", "$$q"}}) == "y$$q");  // a setting is taken as it is
}

TEST_CASE("values that would break the text are quoted") {
  for (const std::string value :
       {"a: b", "a #b", "- a", "[a", "a, b", "{", "*a",  "&a", "!x",  "'",   "\"", "\\", "%", "@",
        "a\nb", "a\tb", " a ", "a:", "?",    "é", "a]}", "|",  "---", "...", "$y", "$$", "${"}) {
    INFO(value);
    CHECK(ignored("x: y", "[$x]", {{"x", value}}) == value);
    CHECK(ignored("x: y", "$x", {{"x", value}}) == value);
    CHECK(ignored("x: y", "'a$x'", {{"x", value}}) == "a" + value);
    CHECK(ignored("x: y", "\"${x}b\"", {{"x", value}}) == value + "b");
  }
}

TEST_CASE("a variable may be null or empty") {
  const std::string text = with_variables("obs: mse", "scheme: W4A16\nweight_observer: $obs");
  CHECK_FALSE(weights_of(stable(text, {{"obs", "null"}})).observer.has_value());
  CHECK(
      mistakes(text, {{"obs", ""}}) ==
      Lines{
          "r.yaml:6:24: weight_observer: unknown observer ''; observers are memoryless_minmax, static_minmax, minmax, "
          "percentile, memoryless_mse, mse, mse_joint, mse_search, nvfp4_expanded_mse, imatrix_mse"});
}

TEST_CASE("mistakes with variables") {
  CHECK(mistakes(with_variables("bits: 4", "scheme: {weights: {num_bits: $bist}}")) ==
        Lines{"r.yaml:5:36: unknown variable 'bist', did you mean 'bits'? (a dollar is written '$$')"});
  CHECK(mistakes(with_fields("scheme: W4A16\nignore: $keep")) ==
        Lines{"r.yaml:5:15: unknown variable 'keep'; give it a value under 'args' (a dollar is written '$$')"});
  CHECK(mistakes(with_fields("scheme: W4A16\nignore: 'a${b'")) ==
        Lines{"r.yaml:5:15: '${' must be followed by a variable name and '}' (a dollar is written '$$')"});
  CHECK(mistakes(with_variables("bits: 4", "scheme: {weights: {num_bits: $bits}}"), {{"bist", "3"}}) ==
        Lines{"r.yaml: --set bist: the recipe does not use 'bist', did you mean 'bits'?"});
  CHECK(mistakes(with_variables("bits: 4", "scheme: W4A16"), {{"bits", "3"}}) ==
        Lines{"r.yaml: --set bits: the recipe does not use 'bits'; it uses no variables"});
  CHECK(mistakes(with_fields("scheme: W4A16"), {{"x", "3"}}) ==
        Lines{"r.yaml: --set x: the recipe does not use 'x'; it uses no variables"});
  CHECK(mistakes(with_variables("a: $b, b: 3", "scheme: W4A16")) ==
        Lines{"r.yaml:1:11: args.a: a variable's value cannot use variables ('$$' is a dollar)"});
  CHECK(mistakes(with_variables("a b: 3", "scheme: W4A16")) ==
        Lines{"r.yaml:1:8: args: 'a b' is no variable name (letters, digits and _)"});
  CHECK(mistakes(with_variables("a: [3]", "scheme: W4A16\nignore: $a")) ==
        Lines{"r.yaml:1:11: args.a: expected a single value, found a list"});
  CHECK(mistakes("args: 3\n" + with_fields("scheme: W4A16")) ==
        Lines{"r.yaml:1:7: args: expected a mapping, found the integer 3"});
  CHECK(mistakes(with_variables("x: y", "scheme: W4A16\nignore: |\n  a$x")) ==
        Lines{"r.yaml:6:15: variables: only values on one line can be replaced"});
  CHECK(mistakes(with_variables("x: y", "scheme: W4A16\nignore: a$x\n  b")) ==
        Lines{"r.yaml:6:15: variables: only values on one line can be replaced"});
  CHECK(mistakes(with_fields("$x: W4A16"), {{"x", "scheme"}}).size() == 3);  // keys are not replaced
}

TEST_CASE("a mistake in a variable's value is reported where it is used") {
  const std::string text = with_variables("bits: 4", "scheme: {weights: {num_bits: $bits}}");
  CHECK(mistakes(text, {{"bits", "9"}}) == Lines{"r.yaml:5:36: weights.num_bits: 9 is not in 1..8 for type int"});
}

TEST_CASE("comments and layout stay in the stored text") {
  const std::string text =
      "# A comment with $bits in it.\nargs:\n  bits: 4   # the default\n\na_stage:\n  b_modifiers:\n    "
      "QuantizationModifier:  # $bits\n      scheme: {weights: {num_bits: $bits}}   # bits\n      ignore: ['a$$b']\n";
  const Recipe recipe = stable(text, {{"bits", "2"}});
  std::string expected = text;
  expected.replace(expected.find("bits: 4"), 7, "bits: 2");
  expected.replace(expected.find(": $bits}"), 7, ": 2");
  CHECK(recipe.text == expected);
  CHECK(recipe.modifiers[0].ignore[0].text == "a$b");
}

TEST_CASE("text without variables is stored as it is") {
  const std::string text = "# x\r\n" + with_fields("scheme: W4A16   # y\nignore: ['re:.*q_proj$', a$$b]") + "\n\n";
  CHECK(stable(text).text == text);
  CHECK(stable("\xEF\xBB\xBF" + text).text == text);
}

TEST_CASE("variables behind anchors, in aliases and in JSON") {
  CHECK(ignored("x: y", "[&one $x, *one]") == "y");
  CHECK(ignored("x: y", "[&one  '$x', *one]") == "y");
  const std::string shared = "args: {x: &v mlp}\n" + with_fields("scheme: W4A16\nignore: [$x, *v]");
  const Recipe recipe = stable(shared, {{"x", "attn"}});
  CHECK(recipe.modifiers[0].ignore[0].text == "attn");
  CHECK(recipe.modifiers[0].ignore[1].text == "attn");
  CHECK(mistakes("a_stage: {b_modifiers: {ShiftModifier: {mode: &v x}}}\nargs: {x: *v}").size() == 1);
  const Recipe json = stable(
      R"({"args": {"p": "W4A16", "bits": 4}, "a_stage": {"b_modifiers": {"QuantizationModifier": {"scheme": "$p"}}}})",
      {{"p", "W8A16"}});
  CHECK(json.modifiers[0].schemes[0].preset == "W8A16");
}

TEST_CASE("variables cannot blow a recipe up without bound") {
  const std::string args = "x: " + std::string(16'000, 'a');
  std::string items;
  for (int i = 0; i < 1000; ++i) items += "$x, ";
  const Lines many = mistakes(with_variables(args, "scheme: W4A16\nignore: [" + items + "]"));
  REQUIRE(many.size() == 1);
  CHECK(many[0].find("the variables' values add up to more than 1048576 bytes") != std::string::npos);
  std::string aliases = "[&v $x";
  for (int i = 0; i < 1000; ++i) aliases += ", *v";
  const Lines multiplied = mistakes(with_variables(args, "scheme: W4A16\nignore: " + aliases + "]"));
  REQUIRE(multiplied.size() == 1);
  CHECK(multiplied[0].find("breaks the limits of size") != std::string::npos);
}

TEST_CASE("a variable cannot blow a value up without bound") {
  std::string value;
  for (int i = 0; i < 3000; ++i) value += "$x";
  const Lines lines = mistakes(with_variables("x: aaaaaaaaaa", "scheme: W4A16\nignore: " + value));
  CHECK(lines == Lines{"r.yaml:6:15: a value of 30000 bytes, at most 16384 are read"});
}
