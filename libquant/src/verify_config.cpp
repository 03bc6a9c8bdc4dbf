#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "quant/error.h"
#include "quant/model.h"
#include "quant/names.h"
#include "verify_checks.h"

namespace quant::verify {
namespace {

struct Rules {
  std::vector<NamePattern> targets;
  std::vector<NamePattern> ignore;
  bool has_targets = false;
};

void compile(const Context& context, const nlohmann::json& list, const std::string& key,
             std::vector<NamePattern>& out) {
  if (!list.is_array()) return context.error("config_value", key, fmt::format("'{}' is no list", key));
  for (const auto& entry : list) {
    if (!entry.is_string()) {
      context.error("config_value", key, fmt::format("'{}' holds {}, which is no name", key, entry.dump()));
      continue;
    }
    try {
      out.emplace_back(entry.get<std::string>());
    } catch (const Error& error) {
      context.error("config_value", key, error.what());
    }
  }
}

Rules read_rules(const Context& context, const nlohmann::json& config) {
  Rules rules;
  if (const auto ignore = config.find("ignore"); ignore != config.end() && !ignore->is_null()) {
    compile(context, *ignore, "quantization_config.ignore", rules.ignore);
  }
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object()) return rules;
  for (const auto& [name, group] : groups->items()) {
    if (!group.is_object() || !group.contains("targets")) continue;
    rules.has_targets = true;
    compile(context, group["targets"], fmt::format("quantization_config.config_groups.{}.targets", name),
            rules.targets);
  }
  return rules;
}

bool matches(const std::vector<NamePattern>& patterns, const std::string& name, const std::string& class_name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const NamePattern& pattern) { return pattern.match(name, class_name).has_value(); });
}

// A linear that loaders take for quantized, because a target matches it and ignore does not, must be quantized.
void check_plain_modules(const Context& context, const Rules& rules, const std::set<std::string>& quantized) {
  for (const Module& module : outline_model(context.checkpoint).modules) {
    if (quantized.contains(module.name)) continue;
    if (!matches(rules.targets, module.name, module.class_name)) continue;
    if (matches(rules.ignore, module.name, module.class_name)) continue;
    context.error("linear_not_quantized", module.name,
                  "a target of config.json matches this module and 'ignore' does not, but its weight is not quantized");
  }
}

void check_quantized_modules(const Context& context, const Rules& rules, const std::vector<StoredLinear>& linears) {
  for (const StoredLinear& linear : linears) {
    const std::string& name = linear.shape.module;
    if (matches(rules.ignore, name, "Linear")) {
      context.error("quantized_but_ignored", name, "config.json ignores this module, but its weight is quantized");
    } else if (rules.has_targets && !matches(rules.targets, name, "Linear")) {
      context.error("quantized_but_not_targeted", name, "no target of config.json matches this quantized module");
    }
  }
}

bool ends_with_quantized_part(const std::string& name) {
  static constexpr std::string_view kParts[] = {".weight_packed", ".weight_scale",        ".weight_zero_point",
                                                ".qweight",       ".weight_global_scale", ".weight_scale_inv"};
  return std::any_of(std::begin(kParts), std::end(kParts), [&](std::string_view part) { return name.ends_with(part); });
}

void check_unquantized(const Context& context) {
  for (const TensorInfo& info : context.checkpoint.tensors()) {
    if (!ends_with_quantized_part(info.name)) continue;
    context.error("quantization_config_missing", info.name,
                  "this is part of a quantized weight, but config.json has no quantization_config");
    return;
  }
}

void check_parts_are_owned(const Context& context, const std::vector<StoredLinear>& linears) {
  std::set<std::string> owned;
  for (const StoredLinear& linear : linears) owned.insert(linear.tensors.begin(), linear.tensors.end());
  for (const TensorInfo& info : context.checkpoint.tensors()) {
    if (owned.contains(info.name) || !ends_with_quantized_part(info.name)) continue;
    context.error("orphan_part", info.name, "this part of a quantized weight belongs to no quantized linear");
  }
}

}  // namespace

void check_config(const Context& context, const std::vector<StoredLinear>& linears) {
  const std::string& text = context.checkpoint.config().quantization_config;
  if (text.empty()) return check_unquantized(context);
  const auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) return context.error("config_value", "quantization_config", "it is no JSON object");
  if (linears.empty()) {
    context.error("nothing_quantized", "quantization_config",
                  "config.json promises quantized weights, but there are none");
  }
  const Rules rules = read_rules(context, config);
  std::set<std::string> quantized;
  for (const StoredLinear& linear : linears) quantized.insert(linear.shape.module);
  check_plain_modules(context, rules, quantized);
  check_quantized_modules(context, rules, linears);
  check_parts_are_owned(context, linears);
}

}  // namespace quant::verify
