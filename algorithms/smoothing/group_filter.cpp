#include "smoothing/group_filter.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quant/error.h"
#include "smoothing/json_text.h"

namespace quant::smoothing {
namespace {

constexpr std::array<std::pair<ProducerKind, std::string_view>, 5> kKinds = {
    {{ProducerKind::norm, "norm"},
     {ProducerKind::value, "value"},
     {ProducerKind::gated_product, "gated_product"},
     {ProducerKind::relu, "relu"},
     {ProducerKind::linear, "linear"}}};

[[noreturn]] void refuse(const std::string& field, const std::string& what) {
  throw Error(ErrorCode::recipe, field + ": " + what);
}

std::vector<NamePattern> patterns_of(const nlohmann::json& json, const std::string& field) {
  std::vector<NamePattern> patterns;
  for (const auto& text : texts_of(json, field)) {
    if (text.empty() || text == "re:") refuse(field, "an empty entry matches nothing");
    try {
      patterns.emplace_back(text);
    } catch (const Error& error) {
      refuse(field, error.what());
    }
  }
  if (patterns.empty()) refuse(field, "an empty list matches nothing");
  return patterns;
}

std::vector<ProducerKind> kinds_of(const nlohmann::json& json, const std::string& default_producers) {
  const auto texts = json.is_null() ? std::vector{default_producers} : texts_of(json, "producers");
  std::vector<std::string> known = {"all"};
  for (const auto& [kind, name] : kKinds) known.emplace_back(name);
  std::vector<ProducerKind> kinds;
  for (const auto& text : texts) {
    if (std::find(known.begin(), known.end(), text) == known.end()) refuse_value("producers", text, known);
    for (const auto& [kind, name] : kKinds) {
      if (text == name || text == "all") kinds.push_back(kind);
    }
  }
  if (kinds.empty()) refuse("producers", "an empty list smooths nothing");
  return kinds;
}

void check_mapping_keys(const nlohmann::json& json, const std::string& field) {
  // activation_hook_target chooses the module whose input is observed; here that is always what the readers read.
  static const std::vector<std::string> known = {"smooth_layer", "balance_layers", "activation_hook_target"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string near = nearest_name(key, known);
    refuse(field, fmt::format("unknown key '{:.60}'{}", key,
                              near.empty() ? fmt::format("; its keys are {}", fmt::join(known, ", "))
                                           : fmt::format(", did you mean '{}'?", near)));
  }
}

bool any_match(const std::vector<NamePattern>& patterns, const std::string& module, std::string_view class_name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const NamePattern& pattern) { return pattern.match(module, class_name).has_value(); });
}

}  // namespace

std::string producer_name(ProducerKind kind) {
  for (const auto& [value, name] : kKinds) {
    if (value == kind) return std::string(name);
  }
  return {};
}

GroupFilter::Mapping GroupFilter::read_mapping(const void* opaque, const std::string& field) {
  const auto& json = *static_cast<const nlohmann::json*>(opaque);
  nlohmann::json smooth;
  nlohmann::json balance;
  if (json.is_array() && json.size() == 2) {
    balance = json[0];
    smooth = json[1];
  } else if (json.is_object()) {
    check_mapping_keys(json, field);
    smooth = json.value("smooth_layer", nlohmann::json());
    balance = json.value("balance_layers", nlohmann::json());
  } else {
    refuse(field, "expected [[balance layers], smooth layer], or a mapping with smooth_layer and balance_layers");
  }
  if (smooth.is_array() && smooth.size() == 1) smooth = nlohmann::json(smooth[0]);
  if (!smooth.is_string()) refuse(field, "the smooth layer must be one text");
  if (balance.is_null()) refuse(field, "the balance layers are missing");
  return {std::move(patterns_of(smooth, field + ".smooth_layer").front()),
          patterns_of(balance, field + ".balance_layers")};
}

GroupFilter::GroupFilter(const Parameters& parameters, const std::string& default_producers) {
  const nlohmann::json mappings = json_parameter(parameters, "mappings");
  if (!mappings.is_null()) {
    if (!mappings.is_array() || mappings.empty()) refuse("mappings", "expected a list with at least one mapping");
    for (std::size_t i = 0; i < mappings.size(); ++i) {
      mappings_.push_back(read_mapping(&mappings[i], fmt::format("mappings[{}]", i)));
    }
  }
  const nlohmann::json ignore = json_parameter(parameters, "ignore");
  if (!ignore.is_null() && !(ignore.is_array() && ignore.empty())) ignore_ = patterns_of(ignore, "ignore");
  kinds_ = kinds_of(json_parameter(parameters, "producers"), default_producers);
}

bool GroupFilter::mapped(const SmoothingGroup& group) const {
  return std::any_of(mappings_.begin(), mappings_.end(), [&](const Mapping& mapping) {
    return mapping.smooth.match(group.smooth_layer, "").has_value() &&
           std::any_of(group.balance.begin(), group.balance.end(),
                       [&](const LinearTask& reader) { return any_match(mapping.balance, reader.module, "Linear"); });
  });
}

bool GroupFilter::ignored(const SmoothingGroup& group) const {
  if (ignore_.empty()) return false;
  if (any_match(ignore_, group.smooth_layer, "")) return true;
  return std::all_of(group.balance.begin(), group.balance.end(),
                     [&](const LinearTask& reader) { return any_match(ignore_, reader.module, "Linear"); });
}

bool GroupFilter::wants(const SmoothingGroup& group) const {
  const bool useful = std::any_of(group.balance.begin(), group.balance.end(),
                                  [](const LinearTask& reader) { return reader.quantized; });
  if (!useful || ignored(group)) return false;
  if (!mappings_.empty()) return mapped(group);
  return std::find(kinds_.begin(), kinds_.end(), group.producer) != kinds_.end();
}

std::vector<ParameterSpec> group_filter_parameters(const std::string& default_producers) {
  using Type = ParameterSpec::Type;
  return {{"mappings", Type::json, std::string(),
           "[[balance layers], smooth layer] pairs; without them the model's structure decides"},
          {"producers", Type::json, std::string(),
           "what is smoothed without mappings: norm, value, gated_product, relu, linear or all (default: " +
               default_producers + ")"},
          {"ignore", Type::json, std::string(), "smooth layers, or balance layers, to leave alone"}};
}

}  // namespace quant::smoothing
