// docs/schemas/recipe.schema.json: all that the reader knows and nothing else, and every ready recipe is valid.
#include <filesystem>
#include <set>

#include "quant/block_encode.h"
#include "quant/observers.h"
#include "quant/recipe_yaml.h"
#include "quant/registry.h"
#include "schemas/schema.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using nlohmann::json;

namespace {

const Registry& builtin() {
  static const Registry filled = [] {
    Registry result;
    register_builtin_algorithms(result);
    return result;
  }();
  return filled;
}

std::set<std::string> keys(const json& object) {
  std::set<std::string> names;
  for (const auto& [name, value] : object.items()) names.insert(name);
  return names;
}

/// The mapping among "null or a mapping".
const json& mapping_of(const json& schema, const std::string& modifier) {
  for (const json& choice : schema.at("definitions").at(modifier).at("anyOf")) {
    if (choice.at("type") == "object") return choice;
  }
  throw std::runtime_error(modifier + " has no mapping");
}

/// What JSON Schema calls a value of the parameter; every field may be null too.
std::set<std::string> types_of(ParameterSpec::Type type) {
  switch (type) {
    case ParameterSpec::Type::boolean:
      return {"boolean", "null"};
    case ParameterSpec::Type::integer:
      return {"integer", "null"};
    case ParameterSpec::Type::number:
      return {"number", "null"};
    case ParameterSpec::Type::text:
      return {"string", "null"};
    case ParameterSpec::Type::scalar:
      return {"string", "number", "boolean", "null"};
    case ParameterSpec::Type::json:
      break;
  }
  return {};
}

std::string recipe_with(const std::string& modifier, const std::string& body) {
  return "a_stage:\n  b_modifiers:\n    " + modifier + ": " + body + "\n";
}

}  // namespace

TEST_CASE("the recipe schema has the modifiers of this build, with their parameters and types") {
  const json schema = schema_document("recipe");
  std::set<std::string> modifiers;
  for (const AlgorithmEntry& entry : builtin().algorithms()) {
    modifiers.insert(entry.modifier);
    INFO(entry.modifier);
    const json& fields = mapping_of(schema, entry.modifier).at("properties");
    std::set<std::string> own;
    for (const ParameterSpec& spec : entry.parameters) {
      INFO(spec.name);
      own.insert(spec.name);
      REQUIRE(fields.contains(spec.name));
      const json& field = fields.at(spec.name);
      CHECK(field.value("description", "") == spec.help);
      const auto wanted = types_of(spec.type);
      const json types = field.value("type", json::array());
      CHECK(std::set<std::string>(types.begin(), types.end()) == wanted);
    }
    for (const std::string& name : keys(fields)) {
      if (own.contains(name)) continue;
      // What is no parameter is one of the shared fields, which the next test looks at.
      INFO(name);
      CHECK(fields.at(name).contains("$ref"));
    }
  }
  const json& group = schema.at("patternProperties").front().at("patternProperties").front().at("properties");
  CHECK(keys(group) == modifiers);
}

TEST_CASE("each field that the schema names is one that the reader knows for that modifier") {
  const json schema = schema_document("recipe");
  for (const AlgorithmEntry& entry : builtin().algorithms()) {
    for (const std::string& field : keys(mapping_of(schema, entry.modifier).at("properties"))) {
      std::string message;
      try {
        parse_recipe(recipe_with(entry.modifier, "{" + field + ": null}"), "r.yaml", {}, builtin());
      } catch (const std::exception& error) {
        message = error.what();
      }
      INFO(entry.modifier << "." << field << ": " << message);
      CHECK(message.find("unknown field") == std::string::npos);
    }
    // And none is missing: the reader's own list is what it suggests from.
    for (const char* field :
         {"targets", "ignore", "scheme", "config_groups", "kv_cache_scheme", "weight_observer", "input_observer",
          "output_observer", "observer", "bypass_divisibility_checks", "index", "group", "start", "end", "update"}) {
      std::string message;
      try {
        parse_recipe(recipe_with(entry.modifier, std::string("{") + field + ": null}"), "r.yaml", {}, builtin());
      } catch (const std::exception& error) {
        message = error.what();
      }
      INFO(entry.modifier << "." << field << ": " << message);
      const bool known = message.find("unknown field") == std::string::npos;
      CHECK(known == mapping_of(schema, entry.modifier).at("properties").contains(field));
    }
  }
}

TEST_CASE("choices of the schema are those of the program") {
  const json definitions = schema_document("recipe").at("definitions");
  std::set<std::string> names;
  for (const auto& info : observers()) names.insert(std::string(info.name));
  const json& listed = definitions.at("observer").at("enum");
  CHECK(std::set<std::string>(listed.begin(), listed.end()) == names);
  std::set<std::string> blocks;
  for (const BlockFormat& format : block_formats()) {
    if (can_encode(format.type) && format.weights > 1) blocks.insert(std::string(format.name));
  }
  std::set<std::string> schema_blocks;
  for (const json& name : definitions.at("arguments").at("properties").at("block").at("enum")) {
    if (name.is_string()) schema_blocks.insert(name);
  }
  CHECK(schema_blocks == blocks);
  for (const auto& [field, ignored] : definitions.at("arguments").at("properties").items()) {
    std::string message;
    try {
      parse_recipe(recipe_with("QuantizationModifier", "{scheme: {weights: {" + field + ": null}}}"), "r.yaml", {},
                   builtin());
    } catch (const std::exception& error) {
      message = error.what();
    }
    INFO(field << ": " << message);
    CHECK(message.find("unknown field") == std::string::npos);
  }
}

TEST_CASE("every ready recipe is valid, with its variables filled in") {
  const json schema = schema_document("recipe");
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(QUANT_SOURCE_DIR) + "/recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    const Recipe recipe = load_recipe(entry.path(), {}, builtin());
    INFO(entry.path().filename() << "\n" << recipe.text);
    CHECK(violations(schema, json_of_yaml(recipe.text)).empty());
    ++count;
  }
  CHECK(count > 40);
}

TEST_CASE("recipes that the reader refuses for their form are not valid either") {
  const json schema = schema_document("recipe");
  const auto wrong = GENERATE(
      as<std::string>{}, "QuantizationModifier: {scheme: W4A16}\n", "a_stage: {}\n", "a_stage:\n  b_modifiers: {}\n",
      "a_stge:\n  b_modifiers:\n    QuantizationModifier: {scheme: W4A16}\n",
      recipe_with("QuantizationModifer", "{scheme: W4A16}"), recipe_with("QuantizationModifier", "{schem: W4A16}"),
      recipe_with("QuantizationModifier", "{scheme: {weights: {num_bits: nine}}}"),
      recipe_with("QuantizationModifier", "{scheme: {weights: {bits: 4}}}"),
      recipe_with("QuantizationModifier", "{config_groups: {a: {weights: {num_bits: 4}}}}"),
      recipe_with("GPTQModifier", "{scheme: W4A16, refine_rounds: two}"),
      recipe_with("QuantizationModifier", "{scheme: W4A16, weight_observer: minmaxx}"),
      recipe_with("SmoothQuantModifier", "{targets: [Linear]}"));
  INFO(wrong);
  CHECK_THROWS(parse_recipe(wrong, "r.yaml", {}, builtin()));
  CHECK_FALSE(violations(schema, json_of_yaml(wrong)).empty());
}
