// A recipe with other schemes for one of its modifiers, as text.
#include <fmt/format.h>
#include <yaml-cpp/emitter.h>
#include <yaml-cpp/emittermanip.h>

#include <algorithm>
#include <array>
#include <functional>
#include <sstream>

#include "mistakes.h"
#include "quant/error.h"
#include "quant/recipe_yaml.h"
#include "scheme_reader.h"
#include "yaml_tree.h"

namespace quant {
namespace {

using recipe_yaml::Node;

void emit_node(YAML::Emitter& out, const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      out << YAML::Null;
      return;
    case Node::Kind::scalar:
      if (!node.plain) out << YAML::DoubleQuoted;
      out << node.text;
      return;
    case Node::Kind::list:
      out << YAML::Flow << YAML::BeginSeq;
      for (const Node* item : node.items) emit_node(out, *item);
      out << YAML::EndSeq;
      return;
    case Node::Kind::map:
      out << YAML::BeginMap;
      for (const Node::Entry& entry : node.entries) {
        out << YAML::Key << entry.key << YAML::Value;
        emit_node(out, *entry.value);
      }
      out << YAML::EndMap;
      return;
  }
}

/// Text that is read back as this value with this type.
void emit_value(YAML::Emitter& out, const KwValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    out << YAML::DoubleQuoted << *text;
  } else if (const auto* number = std::get_if<double>(&value)) {
    std::string digits = fmt::format("{}", *number);
    if (digits.find_first_of(".en") == std::string::npos) digits += ".0";
    out << digits;
  } else if (const auto* whole = std::get_if<std::int64_t>(&value)) {
    out << *whole;
  } else {
    out << std::get<bool>(value);
  }
}

void emit_sizes(YAML::Emitter& out, const QuantArgs& args) {
  if (args.group_size) out << YAML::Key << "group_size" << YAML::Value << *args.group_size;
  if (!args.block_structure) return;
  out << YAML::Key << "block_structure" << YAML::Value << YAML::BeginSeq << (*args.block_structure)[0]
      << (*args.block_structure)[1] << YAML::EndSeq;
}

void emit_types(YAML::Emitter& out, const QuantArgs& args) {
  if (args.scale_dtype) {
    out << YAML::Key << "scale_dtype" << YAML::Value << std::string(torch_dtype_name(*args.scale_dtype));
  }
  if (args.zp_dtype) {
    out << YAML::Key << "zp_dtype" << YAML::Value << std::string(torch_dtype_name(*args.zp_dtype));
  }
}

/// The fields that are this library's own.
void emit_additions(YAML::Emitter& out, const QuantArgs& args) {
  if (args.codebook != Codebook::learned) {
    out << YAML::Key << "codebook" << YAML::Value << std::string(to_string(args.codebook));
  }
  if (args.block) out << YAML::Key << "block" << YAML::Value << std::string(block_format(*args.block).name);
  if (args.double_quant) out << YAML::Key << "double_quant" << YAML::Value << true;
  const auto number = [&](const char* key, double value) {
    if (value > 0) out << YAML::Key << key << YAML::Value << fmt::format("{}", value);
  };
  number("outlier_percent", args.outlier_percent);
  number("sensitive_percent", args.sensitive_percent);
  number("outlier_threshold", args.outlier_threshold);
}

void emit_args(YAML::Emitter& out, const char* part, const std::optional<QuantArgs>& maybe) {
  if (!maybe) return;
  const QuantArgs& args = *maybe;
  out << YAML::Key << part << YAML::Value << YAML::Flow << YAML::BeginMap;
  out << YAML::Key << "num_bits" << YAML::Value << args.num_bits;
  out << YAML::Key << "type" << YAML::Value << std::string(to_string(args.type));
  out << YAML::Key << "symmetric" << YAML::Value << args.symmetric;
  out << YAML::Key << "strategy" << YAML::Value << std::string(to_string(args.strategy));
  emit_sizes(out, args);
  if (args.dynamic == Dynamic::yes) out << YAML::Key << "dynamic" << YAML::Value << true;
  if (args.dynamic == Dynamic::local) out << YAML::Key << "dynamic" << YAML::Value << "local";
  if (args.actorder == ActOrder::none) out << YAML::Key << "actorder" << YAML::Value << false;
  if (args.actorder && *args.actorder != ActOrder::none) {
    out << YAML::Key << "actorder" << YAML::Value << std::string(to_string(*args.actorder));
  }
  emit_types(out, args);
  emit_additions(out, args);
  if (args.observer) out << YAML::Key << "observer" << YAML::Value << *args.observer;
  if (!args.observer_kwargs.empty()) {
    out << YAML::Key << "observer_kwargs" << YAML::Value << YAML::BeginMap;
    for (const auto& [name, value] : args.observer_kwargs) {
      out << YAML::Key << name << YAML::Value;
      emit_value(out, value);
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
}

void emit_groups(YAML::Emitter& out, const std::vector<RecipeScheme>& schemes) {
  out << YAML::Key << "config_groups" << YAML::Value << YAML::BeginMap;
  for (const RecipeScheme& scheme : schemes) {
    out << YAML::Key << scheme.name << YAML::Value << YAML::BeginMap;
    emit_args(out, "weights", scheme.scheme.weights);
    emit_args(out, "input_activations", scheme.scheme.input_activations);
    emit_args(out, "output_activations", scheme.scheme.output_activations);
    if (scheme.scheme.format) out << YAML::Key << "format" << YAML::Value << *scheme.scheme.format;
    out << YAML::Key << "targets" << YAML::Value << YAML::BeginSeq;
    for (const Pattern& target : scheme.targets) out << YAML::DoubleQuoted << target.text;
    out << YAML::EndSeq << YAML::EndMap;
  }
  out << YAML::EndMap;
}

/// The modifier's own mapping: its fields without the schemes that it had, then the new ones.
void emit_modifier(YAML::Emitter& out, const Node& body, const std::vector<RecipeScheme>& schemes) {
  const auto& replaced = recipe_yaml::scheme_fields();
  out << YAML::BeginMap;
  for (const Node::Entry& entry : body.entries) {
    const bool kept =
        entry.key == "kv_cache_scheme" || std::find(replaced.begin(), replaced.end(), entry.key) == replaced.end();
    if (!kept) continue;
    out << YAML::Key << entry.key << YAML::Value;
    emit_node(out, *entry.value);
  }
  emit_groups(out, schemes);
  out << YAML::EndMap;
}

/// The modifier's fields without what the sparsity was to be found by, then the sparsity of each linear.
void emit_sparsities(YAML::Emitter& out, const Node& body, const std::vector<std::pair<std::string, double>>& shares) {
  static constexpr std::array<std::string_view, 6> kReplaced = {"sparsity",       "final_sparsity", "sparsity_profile",
                                                                "apply_globally", "owl_m",          "owl_lmbda"};
  out << YAML::BeginMap;
  for (const Node::Entry& entry : body.entries) {
    if (std::find(kReplaced.begin(), kReplaced.end(), entry.key) != kReplaced.end()) continue;
    out << YAML::Key << entry.key << YAML::Value;
    emit_node(out, *entry.value);
  }
  out << YAML::Key << "sparsity" << YAML::Value << YAML::BeginMap;
  for (const auto& [module, share] : shares) {
    out << YAML::Key << YAML::DoubleQuoted << module << YAML::Value << fmt::format("{}", share);
  }
  out << YAML::EndMap << YAML::EndMap;
}

using EmitModifier = std::function<void(YAML::Emitter& out, const Node& body)>;

struct Target {
  const RecipeModifier* modifier;
  EmitModifier emit;
  bool found = false;
};

/// `depth`: 0 for stages, 1 for groups, 2 for modifiers.
void emit_tree(YAML::Emitter& out, const Node& node, int depth, Target& target) {
  out << YAML::BeginMap;
  for (const Node::Entry& entry : node.entries) {
    const SourceLocation& where = target.modifier->where;
    out << YAML::Key << entry.key << YAML::Value;
    const bool stage = depth == 0 && entry.key == target.modifier->stage;
    const bool group = depth == 1 && entry.key == target.modifier->group;
    if (depth == 2 && entry.where.line == where.line && entry.where.column == where.column) {
      target.found = true;
      target.emit(out, *entry.value);
    } else if ((stage || group) && entry.value->is(Node::Kind::map)) {
      emit_tree(out, *entry.value, depth + 1, target);
    } else {
      emit_node(out, *entry.value);
    }
  }
  out << YAML::EndMap;
}

}  // namespace

namespace {

// The recipe's text with another body of one modifier.
std::string rewritten(const Recipe& recipe, std::size_t modifier, const EmitModifier& emit, const std::string& comment,
                      const Registry& registry) {
  // Places are those of the text with its variables filled in.
  const Recipe again = parse_recipe(recipe.text, recipe.name, {}, registry);
  recipe_yaml::Mistakes mistakes(recipe.name);
  const recipe_yaml::Document document = recipe_yaml::read_document(recipe.text, mistakes);
  YAML::Emitter out;
  Target target{&again.modifiers.at(modifier), emit};
  emit_tree(out, *document.root, 0, target);
  if (!target.found || !out.good()) {
    throw Error(ErrorCode::internal, fmt::format("a modifier of {} could not be replaced", recipe.name));
  }
  std::string text;
  std::istringstream lines(comment);
  for (std::string line; std::getline(lines, line);) text += "# " + line + "\n";
  return text + out.c_str() + "\n";
}

}  // namespace

std::string with_schemes(const Recipe& recipe, std::size_t modifier, const std::vector<RecipeScheme>& schemes,
                         const std::string& comment, const Registry& registry) {
  const auto emit = [&](YAML::Emitter& out, const Node& body) { emit_modifier(out, body, schemes); };
  return rewritten(recipe, modifier, emit, comment, registry);
}

std::string with_sparsities(const Recipe& recipe, std::size_t modifier,
                            const std::vector<std::pair<std::string, double>>& sparsities, const std::string& comment,
                            const Registry& registry) {
  const auto emit = [&](YAML::Emitter& out, const Node& body) { emit_sparsities(out, body, sparsities); };
  return rewritten(recipe, modifier, emit, comment, registry);
}

}  // namespace quant
