#include "scheme_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "quant/observers.h"
#include "quant_args_reader.h"

namespace quant::recipe_yaml {
namespace {

enum Part : std::size_t { kWeights, kInputs, kOutputs, kParts };
constexpr std::array<std::string_view, kParts> kPartFields = {"weights", "input_activations", "output_activations"};
constexpr std::array<std::string_view, kParts> kPartNames = {"weights", "input", "output"};  // keys of `observer`
constexpr std::array<std::string_view, kParts> kObserverFields = {"weight_observer", "input_observer",
                                                                  "output_observer"};

struct SchemeDraft {
  std::string name;
  std::string preset;
  Place where;
  std::vector<Pattern> targets;
  std::array<std::optional<ArgsDraft>, kParts> parts;
  std::optional<std::string> format;
};

struct ObserverChoice {
  std::string name;
  Place where;
  bool used = false;
};

const std::vector<std::string>& format_names() {
  static const std::vector<std::string> names = {"dense",
                                                 "pack-quantized",
                                                 "int-quantized",
                                                 "float-quantized",
                                                 "naive-quantized",
                                                 "nvfp4-pack-quantized",
                                                 "mxfp8-quantized",
                                                 "mxfp4-pack-quantized",
                                                 "gptq",
                                                 "gptq_v2",
                                                 "gemm"};
  return names;
}

class SchemesReader {
 public:
  SchemesReader(Mistakes& mistakes, const Node& body, std::string class_name, Place where)
      : mistakes_(mistakes), body_(body), class_name_(std::move(class_name)), where_(where) {}

  std::vector<RecipeScheme> read() {
    const std::size_t before = mistakes_.count();
    read_targets();
    const Node* scheme = given(body_, "scheme");
    const Node* groups = given(body_, "config_groups");
    if (scheme != nullptr && groups != nullptr) {
      mistakes_.add(body_.find("config_groups")->where, "config_groups: give either this or 'scheme', not both");
    } else if (scheme != nullptr) {
      read_scheme(*scheme);
    } else if (groups != nullptr) {
      read_groups(*groups);
    }
    read_observers();
    if (drafts_.empty() && mistakes_.count() == before) {
      mistakes_.add(where_, fmt::format("{} quantizes nothing: give 'scheme' or 'config_groups'", class_name_));
    }
    std::vector<RecipeScheme> schemes;
    for (auto& draft : drafts_) schemes.push_back(finish(draft));
    check_observers_used();
    return schemes;
  }

 private:
  void read_targets() {
    const Node* node = given(body_, "targets");
    if (node == nullptr) {
      targets_ = {{"Linear", mistakes_.at(where_)}};
      return;
    }
    targets_ = needed_targets(*node, "targets");
  }

  std::vector<Pattern> needed_targets(const Node& node, std::string_view field) {
    if (node.is(Node::Kind::list) && node.items.empty()) {
      mistakes_.add(node.where, fmt::format("{}: an empty list matches nothing", field));
    }
    return read_patterns(mistakes_, node, field);
  }

  /// Adds the preset's scheme; adds a mistake and returns false if there is no preset of that name.
  bool add_preset(std::string name, const std::string& preset, std::vector<Pattern> targets, Place where) {
    const auto known = preset_scheme(preset);
    if (!known) {
      mistakes_.add(where, unknown_preset(preset));
      return false;
    }
    SchemeDraft draft;
    draft.name = std::move(name);
    draft.preset = preset;
    std::transform(draft.preset.begin(), draft.preset.end(), draft.preset.begin(),
                   [](unsigned char c) { return std::toupper(c); });
    draft.where = where;
    draft.targets = std::move(targets);
    const std::array<const std::optional<QuantArgs>*, kParts> parts = {&known->weights, &known->input_activations,
                                                                       &known->output_activations};
    for (std::size_t part = 0; part < kParts; ++part) {
      if (!*parts[part]) continue;
      draft.parts[part] = ArgsDraft{**parts[part], true, true, nullptr, where, std::string(kPartFields[part])};
    }
    drafts_.push_back(std::move(draft));
    return true;
  }

  static std::string unknown_preset(const std::string& name) {
    std::string upper(name);
    std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
    if (upper.starts_with("MXFP6")) return fmt::format("preset {}: 6-bit floats are not supported", in_quotes(name));
    std::vector<std::string> presets;
    for (const auto preset : preset_names()) presets.emplace_back(preset);
    return fmt::format("unknown preset {}{}", in_quotes(name), suggestion(name, presets, "the presets"));
  }

  void read_scheme(const Node& node) {
    if (!node.is(Node::Kind::map)) {
      const auto preset = read_text(mistakes_, node, "scheme");
      if (preset) add_preset("group_0", *preset, targets_, node.where);
      return;
    }
    const bool explicit_scheme = std::any_of(node.entries.begin(), node.entries.end(), [](const Node::Entry& entry) {
      return entry.key == "format" || std::find(kPartFields.begin(), kPartFields.end(), entry.key) != kPartFields.end();
    });
    if (explicit_scheme) {
      read_explicit(node, "group_0", node.where, "scheme", false);
      return;
    }
    for (std::size_t i = 0; i < node.entries.size(); ++i) {
      const auto& entry = node.entries[i];
      auto targets = needed_targets(*entry.value, fmt::format("scheme.{}", entry.key));
      add_preset(fmt::format("group_{}", i), entry.key, std::move(targets), entry.where);
    }
  }

  void read_groups(const Node& node) {
    if (!is_map(mistakes_, node, "config_groups")) return;
    for (const auto& entry : node.entries) {
      const std::string field = "config_groups." + entry.key;
      if (entry.value->is(Node::Kind::list) || entry.value->is(Node::Kind::scalar)) {
        add_preset(entry.key, entry.key, needed_targets(*entry.value, field), entry.where);
      } else if (is_map(mistakes_, *entry.value, field)) {
        read_explicit(*entry.value, entry.key, entry.where, field, true);
      }
    }
  }

  void read_explicit(const Node& node, const std::string& name, Place where, const std::string& field,
                     bool own_targets) {
    std::vector<std::string> known(kPartFields.begin(), kPartFields.end());
    known.emplace_back("format");
    if (own_targets) known.emplace_back("targets");
    check_keys(mistakes_, node, known, field);
    SchemeDraft draft;
    draft.name = name;
    draft.where = where;
    draft.targets = targets_;
    if (own_targets) {
      const Node* targets = given(node, "targets");
      if (targets == nullptr) {
        mistakes_.add(where, fmt::format("{}: the field 'targets' is missing", field));
      } else {
        draft.targets = needed_targets(*targets, field + ".targets");
      }
    }
    for (std::size_t part = 0; part < kParts; ++part) {
      const Node* args = given(node, kPartFields[part]);
      if (args != nullptr) draft.parts[part] = read_quant_args(mistakes_, *args, std::string(kPartFields[part]));
    }
    const bool empty =
        std::none_of(draft.parts.begin(), draft.parts.end(), [](const auto& p) { return p.has_value(); });
    if (empty) {
      mistakes_.add(where, fmt::format("{}: quantizes nothing; to leave modules alone use 'ignore' or the preset "
                                       "UNQUANTIZED",
                                       field));
    }
    if (const Node* format = given(node, "format")) draft.format = read_format(*format, field + ".format");
    drafts_.push_back(std::move(draft));
  }

  std::optional<std::string> read_format(const Node& node, const std::string& field) {
    if (node.text == "mixed-precision") {
      mistakes_.add(node.where, field + ": mixed-precision is a whole model's format, a scheme cannot have it");
      return std::nullopt;
    }
    return read_choice(mistakes_, node, field, format_names());
  }

  void read_observers() {
    for (std::size_t part = 0; part < kParts; ++part) {
      const Node* node = given(body_, kObserverFields[part]);
      if (node != nullptr) read_observer(part, *node, std::string(kObserverFields[part]));
    }
    const Node* node = given(body_, "observer");
    if (node == nullptr || !is_map(mistakes_, *node, "observer")) return;
    check_keys(mistakes_, *node, {kPartNames.begin(), kPartNames.end()}, "observer");
    for (std::size_t part = 0; part < kParts; ++part) {
      const Node* choice = given(*node, kPartNames[part]);
      if (choice == nullptr) continue;
      if (observers_[part]) {
        mistakes_.add(choice->where, fmt::format("observer.{}: give either this or '{}', not both", kPartNames[part],
                                                 kObserverFields[part]));
      } else {
        read_observer(part, *choice, fmt::format("observer.{}", kPartNames[part]));
      }
    }
  }

  void read_observer(std::size_t part, const Node& node, const std::string& field) {
    const auto name = read_text(mistakes_, node, field);
    if (!name) return;
    if (find_observer(*name) == nullptr) {
      std::vector<std::string> names;
      for (const auto& info : quant::observers()) names.emplace_back(info.name);
      mistakes_.add(node.where, fmt::format("{}: unknown observer {}{}", field, in_quotes(*name),
                                            suggestion(*name, names, "observers")));
      return;
    }
    observers_[part] = ObserverChoice{*name, node.where, false};
  }

  RecipeScheme finish(SchemeDraft& draft) {
    RecipeScheme result;
    result.name = draft.name;
    result.preset = draft.preset;
    result.targets = draft.targets;
    result.where = mistakes_.at(draft.where);
    result.scheme.format = draft.format;
    for (const auto& target : draft.targets) result.scheme.targets.push_back(target.text);
    const std::array<std::optional<QuantArgs>*, kParts> parts = {
        &result.scheme.weights, &result.scheme.input_activations, &result.scheme.output_activations};
    for (std::size_t part = 0; part < kParts; ++part) {
      if (!draft.parts[part]) continue;
      *parts[part] = finish_part(part, *draft.parts[part]);
    }
    return result;
  }

  QuantArgs finish_part(std::size_t part, ArgsDraft& draft) {
    if (observers_[part]) {
      draft.args.observer = observers_[part]->name;
      observers_[part]->used = true;
      if (draft.node == nullptr || draft.node->find("observer") == nullptr) draft.where = observers_[part]->where;
    }
    QuantArgs args = finish_quant_args(mistakes_, draft);
    const auto refuse = [&](bool broken, std::string_view field, std::string_view why) {
      if (!broken || !draft.sound) return;
      const Node::Entry* entry = draft.node == nullptr ? nullptr : draft.node->find(field);
      mistakes_.add(entry == nullptr ? draft.where : entry->value->where,
                    fmt::format("{}.{}: {}", draft.owner, field, why));
    };
    if (part == kWeights) {
      refuse(args.strategy == Strategy::token || args.strategy == Strategy::attn_head, "strategy",
             "weights have no tokens and no heads");
      refuse(args.dynamic != Dynamic::no, "dynamic", "weights are known beforehand, their range cannot be dynamic");
      refuse(args.observer_kwargs.contains("absmax"), "observer_kwargs", "absmax is for static activations");
    } else {
      refuse(args.strategy == Strategy::channel || args.strategy == Strategy::block, "strategy",
             "activations have tensor, token, group, tensor_group or attn_head");
      refuse(args.actorder && *args.actorder != ActOrder::none, "actorder", "activations have no order");
    }
    return args;
  }

  void check_observers_used() {
    for (std::size_t part = 0; part < kParts; ++part) {
      if (!observers_[part] || observers_[part]->used || drafts_.empty()) continue;
      mistakes_.add(observers_[part]->where,
                    fmt::format("an observer of {}, but no scheme quantizes these", kPartFields[part]));
    }
  }

  Mistakes& mistakes_;
  const Node& body_;
  std::string class_name_;
  Place where_;
  std::vector<Pattern> targets_;
  std::vector<SchemeDraft> drafts_;
  std::array<std::optional<ObserverChoice>, kParts> observers_;
};

}  // namespace

const std::vector<std::string>& scheme_fields() {
  static const std::vector<std::string> names = {"targets",         "scheme",          "config_groups",
                                                 "kv_cache_scheme", "weight_observer", "input_observer",
                                                 "output_observer", "observer"};
  return names;
}

bool has_scheme(const Node& body) {
  return given(body, "scheme") != nullptr || given(body, "config_groups") != nullptr;
}

std::optional<QuantArgs> read_kv_cache(Mistakes& mistakes, const Node& body) {
  const Node* node = given(body, "kv_cache_scheme");
  if (node == nullptr) return std::nullopt;
  ArgsDraft draft = read_quant_args(mistakes, *node, "kv_cache_scheme");
  const std::size_t before = mistakes.count();
  QuantArgs args = finish_quant_args(mistakes, draft);
  if (!draft.sound || mistakes.count() != before) return args;
  const auto refuse = [&](bool broken, std::string_view field, std::string_view why) {
    if (!broken) return;
    const Node::Entry* entry = node->find(field);
    mistakes.add(entry == nullptr ? node->where : entry->value->where,
                 fmt::format("kv_cache_scheme.{}: {}", field, why));
  };
  refuse(args.num_bits != 8, "num_bits", "serving programs have caches of 8 bits, no others");
  refuse(args.strategy != Strategy::tensor, "strategy",
         "one scale for all keys and one for all values of a layer are stored: tensor");
  refuse(args.dynamic != Dynamic::no, "dynamic", "the scales are stored, so they are static: false");
  refuse(!args.symmetric, "symmetric", "serving programs know no zero points of caches: true");
  refuse(args.type == NumberType::floating && args.num_bits == 8 && element_dtype(args) != DType::F8_E4M3,
         "observer_kwargs", "caches of 8-bit floats are E4M3");
  return args;
}

std::vector<RecipeScheme> read_schemes(Mistakes& mistakes, const Node& body, const std::string& class_name,
                                       Place where) {
  return SchemesReader(mistakes, body, class_name, where).read();
}

}  // namespace quant::recipe_yaml
