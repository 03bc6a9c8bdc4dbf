#include "modifier_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quant/error.h"
#include "scheme_reader.h"

namespace quant::recipe_yaml {
namespace {

/// llm-compressor's modifiers: where the registry lacks one, the recipe is not misspelt but ahead of this version.
constexpr std::array<std::string_view, 14> kForeignModifiers = {"QuantizationModifier",
                                                                "GPTQModifier",
                                                                "AWQModifier",
                                                                "SmoothQuantModifier",
                                                                "SparseGPTModifier",
                                                                "WandaPruningModifier",
                                                                "MagnitudePruningModifier",
                                                                "ConstantPruningModifier",
                                                                "REAPPruningModifier",
                                                                "SpinQuantModifier",
                                                                "QuIPModifier",
                                                                "AutoRoundModifier",
                                                                "LogarithmicEqualizationModifier",
                                                                "IMatrixGatherer"};

/// Fields of every llm-compressor modifier; they steer training, which there is none of here.
const std::vector<std::string>& base_fields() {
  static const std::vector<std::string> names = {"index", "group", "start", "end", "update"};
  return names;
}

std::vector<std::string> own_modifiers(const Registry& registry) {
  std::vector<std::string> names;
  for (const auto& entry : registry.algorithms()) names.push_back(entry.modifier);
  return names;
}

void refuse_class(Mistakes& mistakes, const Registry& registry, const Node::Entry& entry) {
  const std::vector<std::string> own = own_modifiers(registry);
  if (is_modifier_class(registry, entry.key)) {
    mistakes.add(entry.where,
                 fmt::format("{} is a modifier of llm-compressor that this version does not have; it has {}", entry.key,
                             joined(own)));
    return;
  }
  std::vector<std::string> known = own;
  known.insert(known.end(), kForeignModifiers.begin(), kForeignModifiers.end());
  const std::string hint = suggestion(entry.key, known, "");
  const bool near = hint.starts_with(", did you mean");
  mistakes.add(entry.where, fmt::format("unknown modifier {}{}", in_quotes(entry.key),
                                        near ? hint : fmt::format("; this version has {}", joined(own))));
}

std::optional<KwValue> read_parameter(Mistakes& mistakes, const Node& node, const ParameterSpec& spec) {
  switch (spec.type) {
    case ParameterSpec::Type::boolean:
      return read_bool(mistakes, node, spec.name);
    case ParameterSpec::Type::integer:
      return read_integer(mistakes, node, spec.name);
    case ParameterSpec::Type::number:
      return read_number(mistakes, node, spec.name);
    case ParameterSpec::Type::text:
      return read_text(mistakes, node, spec.name);
  }
  return std::nullopt;
}

Parameters read_parameters(Mistakes& mistakes, const Node& body, const AlgorithmEntry& algorithm) {
  Parameters parameters;
  for (const auto& spec : algorithm.parameters) {
    const Node* node = given(body, spec.name);
    const auto value = node == nullptr ? std::nullopt : read_parameter(mistakes, *node, spec);
    parameters[spec.name] = value.value_or(spec.default_value);
  }
  return parameters;
}

void check_base_fields(Mistakes& mistakes, const Node& body) {
  for (const auto& field : base_fields()) {
    if (const Node* node = given(body, field)) read_value(mistakes, *node, field);
  }
}

/// The algorithm's role; nothing, and a mistake, if it refuses its parameters.
std::optional<Role> role_of(Mistakes& mistakes, const AlgorithmEntry& algorithm, const Parameters& parameters,
                            Place where) {
  if (!algorithm.create) return Role::quantize;
  try {
    return algorithm.create(parameters)->role();
  } catch (const Error& error) {
    mistakes.add(where, fmt::format("{}: {}", algorithm.modifier, error.what()));
    return std::nullopt;
  }
}

std::vector<std::string> known_fields(const AlgorithmEntry& algorithm, bool quantizes) {
  std::vector<std::string> known;
  for (const auto& spec : algorithm.parameters) known.push_back(spec.name);
  known.emplace_back("ignore");
  if (quantizes) {
    known.insert(known.end(), scheme_fields().begin(), scheme_fields().end());
    known.emplace_back("bypass_divisibility_checks");
  }
  known.insert(known.end(), base_fields().begin(), base_fields().end());
  return known;
}

}  // namespace

bool is_modifier_class(const Registry& registry, std::string_view name) {
  return registry.modifier(name) != nullptr ||
         std::find(kForeignModifiers.begin(), kForeignModifiers.end(), name) != kForeignModifiers.end();
}

std::optional<RecipeModifier> read_modifier(Mistakes& mistakes, const Registry& registry, const Node::Entry& entry) {
  const AlgorithmEntry* algorithm = registry.modifier(entry.key);
  if (algorithm == nullptr) {
    refuse_class(mistakes, registry, entry);
    return std::nullopt;
  }
  RecipeModifier modifier;
  modifier.type = entry.key;
  modifier.where = mistakes.at(entry.where);
  static const Node kEmpty = [] {
    Node node;
    node.kind = Node::Kind::map;
    return node;
  }();
  const bool empty = entry.value->is(Node::Kind::null);
  if (!empty && !is_map(mistakes, *entry.value, entry.key)) return std::nullopt;
  const Node& body = empty ? kEmpty : *entry.value;
  modifier.parameters = read_parameters(mistakes, body, *algorithm);
  const auto role = role_of(mistakes, *algorithm, modifier.parameters, entry.where);
  if (!role) return modifier;
  const bool quantizes = role == Role::quantize;
  check_keys(mistakes, body, known_fields(*algorithm, quantizes), entry.key);
  check_base_fields(mistakes, body);
  if (const Node* ignore = given(body, "ignore")) modifier.ignore = read_patterns(mistakes, *ignore, "ignore");
  if (!quantizes) return modifier;
  modifier.schemes = read_schemes(mistakes, body, entry.key, entry.where);
  if (const Node* bypass = given(body, "bypass_divisibility_checks")) {
    modifier.bypass_divisibility_checks = read_bool(mistakes, *bypass, "bypass_divisibility_checks").value_or(false);
  }
  return modifier;
}

}  // namespace quant::recipe_yaml
