#include "modifier_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <set>

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
    case ParameterSpec::Type::scalar:
      return read_value(mistakes, node, spec.name);
    case ParameterSpec::Type::json:
      return json_text(node);
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

/// The place of the parameter that a sentence such as "mappings[1].smooth_layer: ..." begins with, else that of the
/// modifier.
Place place_of(std::string_view sentence, const Node& body, Place modifier) {
  const Node::Entry* entry = body.find(sentence.substr(0, sentence.find_first_of(":[. ")));
  return entry == nullptr ? modifier : entry->value->where;
}

/// The algorithm's role; nothing, and a mistake, if it refuses its parameters.
std::optional<Role> role_of(Mistakes& mistakes, const AlgorithmEntry& algorithm, const Parameters& parameters,
                            const Node& body, Place where) {
  if (!algorithm.create) return Role::quantize;
  try {
    return algorithm.create(parameters)->role();
  } catch (const Error& error) {
    const std::string_view sentence = error.what();
    mistakes.add(place_of(sentence, body, where), fmt::format("{}: {}", algorithm.modifier, sentence));
    return std::nullopt;
  }
}

std::vector<std::string> known_fields(const AlgorithmEntry& algorithm, bool quantizes, bool prunes) {
  std::vector<std::string> known;
  for (const auto& spec : algorithm.parameters) known.push_back(spec.name);
  known.emplace_back("ignore");
  if (prunes) known.emplace_back("targets");
  if (quantizes) {
    known.insert(known.end(), scheme_fields().begin(), scheme_fields().end());
    known.emplace_back("bypass_divisibility_checks");
  }
  known.insert(known.end(), base_fields().begin(), base_fields().end());
  return known;
}

/// Whether a transform's mapping holds fields of the quantizer after it.
bool has_quantization(const AlgorithmEntry& algorithm, const Node& body) {
  if (algorithm.followed_by.empty()) return false;
  return given(body, "bypass_divisibility_checks") != nullptr ||
         std::any_of(scheme_fields().begin(), scheme_fields().end(),
                     [&](const std::string& field) { return given(body, field) != nullptr; });
}

/// What the modifier's mapping says against its own schemes. Defaults contradict nothing.
void check_agreement(Mistakes& mistakes, const Node& body, const AlgorithmEntry& algorithm,
                     const RecipeModifier& modifier) {
  if (!algorithm.create) return;
  const std::unique_ptr<Algorithm> own = algorithm.create(modifier.parameters);
  std::set<std::string> said;
  for (const RecipeScheme& scheme : modifier.schemes) {
    if (!scheme.scheme.weights) continue;
    QuantArgs weights = *scheme.scheme.weights;
    const std::optional<std::string> conflict = own->complete(weights);
    if (!conflict) continue;
    const Node* field = given(body, conflict->substr(0, conflict->find(':')));
    if (field != nullptr && said.insert(*conflict).second) mistakes.add(field->where, *conflict);
  }
}

void read_quantization(Mistakes& mistakes, const Node& body, const Node::Entry& entry, RecipeModifier& modifier) {
  const bool cache_alone = given(body, "kv_cache_scheme") != nullptr && !has_scheme(body);
  if (!cache_alone) modifier.schemes = read_schemes(mistakes, body, entry.key, entry.where);
  modifier.kv_cache = read_kv_cache(mistakes, body);
  if (const Node* bypass = given(body, "bypass_divisibility_checks")) {
    modifier.bypass_divisibility_checks = read_bool(mistakes, *bypass, "bypass_divisibility_checks").value_or(false);
  }
}

}  // namespace

bool is_modifier_class(const Registry& registry, std::string_view name) {
  return registry.modifier(name) != nullptr ||
         std::find(kForeignModifiers.begin(), kForeignModifiers.end(), name) != kForeignModifiers.end();
}

std::vector<RecipeModifier> read_modifier(Mistakes& mistakes, const Registry& registry, const Node::Entry& entry) {
  const AlgorithmEntry* algorithm = registry.modifier(entry.key);
  if (algorithm == nullptr) {
    refuse_class(mistakes, registry, entry);
    return {};
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
  if (!empty && !is_map(mistakes, *entry.value, entry.key)) return {};
  const Node& body = empty ? kEmpty : *entry.value;
  modifier.parameters = read_parameters(mistakes, body, *algorithm);
  const auto role = role_of(mistakes, *algorithm, modifier.parameters, body, entry.where);
  if (!role) return {modifier};
  const bool quantizes = *role == Role::quantize;
  const bool prunes = *role == Role::sparsify;
  check_keys(mistakes, body, known_fields(*algorithm, quantizes || !algorithm->followed_by.empty(), prunes), entry.key);
  check_base_fields(mistakes, body);
  if (const Node* ignore = given(body, "ignore")) modifier.ignore = read_patterns(mistakes, *ignore, "ignore");
  if (prunes) {
    if (const Node* targets = given(body, "targets")) modifier.targets = read_patterns(mistakes, *targets, "targets");
    if (modifier.targets.empty()) modifier.targets = {{"Linear", modifier.where}};
  }
  if (quantizes) {
    read_quantization(mistakes, body, entry, modifier);
    check_agreement(mistakes, body, *algorithm, modifier);
    return {modifier};
  }
  if (!has_quantization(*algorithm, body)) return {modifier};
  RecipeModifier quantizer;
  quantizer.type = algorithm->followed_by;
  quantizer.where = modifier.where;
  quantizer.ignore = modifier.ignore;
  if (const AlgorithmEntry* second = registry.modifier(quantizer.type)) {
    quantizer.parameters = read_parameters(mistakes, kEmpty, *second);
  }
  read_quantization(mistakes, body, entry, quantizer);
  return {modifier, quantizer};
}

void check_followed(Mistakes& mistakes, const Registry& registry, const std::vector<RecipeModifier>& modifiers) {
  for (std::size_t i = 0; i < modifiers.size(); ++i) {
    const AlgorithmEntry* algorithm = registry.modifier(modifiers[i].type);
    if (algorithm == nullptr || algorithm->followed_by.empty()) continue;
    const bool followed =
        std::any_of(modifiers.begin() + static_cast<std::ptrdiff_t>(i), modifiers.end(),
                    [](const RecipeModifier& later) { return !later.schemes.empty() || later.kv_cache.has_value(); });
    if (followed) continue;
    mistakes.add({modifiers[i].where.line, modifiers[i].where.column},
                 fmt::format("{} prepares weights for a quantizer, but none follows: add a {} after it, or give it a "
                             "scheme",
                             modifiers[i].type, algorithm->followed_by));
  }
}

}  // namespace quant::recipe_yaml
