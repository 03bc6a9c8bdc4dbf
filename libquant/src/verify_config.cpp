#include <fmt/format.h>

#include <algorithm>
#include <cmath>
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

// What those mind who run the model: static scales of inputs are there, and are positive numbers.
void check_inputs(const Context& context, const std::vector<StoredLinear>& linears) {
  for (const StoredLinear& linear : linears) {
    if (!linear.input || linear.input->args.dynamic == Dynamic::yes) continue;
    const bool global = is_nvfp4(linear.input->args);
    const float scale = global ? linear.input->global_scale : linear.input->scale;
    if (std::isfinite(scale) && scale > 0) continue;
    const std::string name = linear.shape.module + (global ? ".input_global_scale" : ".input_scale");
    const bool missing = context.checkpoint.find(name) == nullptr;
    context.error("input_scale", name,
                  fmt::format("it {}, but the inputs are quantized as {}",
                              missing ? std::string("is missing") : fmt::format("holds {}", scale),
                              describe(linear.input->args)));
  }
}

// Every attention module whose key projection has a name of its own.
std::set<std::string> attention_modules(const Context& context, const std::vector<StoredLinear>& linears) {
  static constexpr std::string_view kKeys = ".k_proj";
  std::set<std::string> names;
  const auto add = [&](const std::string& module) {
    if (module.ends_with(kKeys)) names.insert(module.substr(0, module.size() - kKeys.size()));
  };
  for (const StoredLinear& linear : linears) add(linear.shape.module);
  for (const Module& module : outline_model(context.checkpoint).modules) add(module.name);
  return names;
}

// True if config.json says that keys and values are quantized.
bool check_cache(const Context& context, const std::vector<StoredLinear>& linears) {
  const Layout* layout = layout_of(context.checkpoint, context.registry);
  if (layout == nullptr) return false;
  try {
    const auto args = layout->kv_cache_scheme(context.checkpoint.config());
    if (!args) return false;
    std::set<std::string> scaled;
    for (const StoredKv& kv : layout->find_kv(context.checkpoint)) scaled.insert(kv.attention);
    context.result.caches = scaled.size();
    if (args->dynamic != Dynamic::no || args->strategy != Strategy::tensor) return true;
    for (const std::string& attention : attention_modules(context, linears)) {
      if (scaled.contains(attention)) continue;
      const std::string name = attention + ".k_scale";
      const std::string message =
          fmt::format("it is missing, but kv_cache_scheme says that keys and values are {}", describe(*args));
      if (args->type == NumberType::integer) {
        context.error("cache_scale_missing", name, message);
      } else {
        context.warning("cache_scale_missing", name, message + "; engines take 1");
      }
    }
  } catch (const Error& error) {
    if (error.code() == ErrorCode::io) throw;
    context.result.findings.push_back(finding_of(error, "kv_cache_scheme"));
  }
  return true;
}

}  // namespace

void check_config(const Context& context, const std::vector<StoredLinear>& linears) {
  const std::string& text = context.checkpoint.config().quantization_config;
  if (text.empty()) return check_unquantized(context);
  const auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) return context.error("config_value", "quantization_config", "it is no JSON object");
  if (!check_cache(context, linears) && linears.empty()) {
    context.error("nothing_quantized", "quantization_config",
                  "config.json promises quantized weights, but there are none");
  }
  const Rules rules = read_rules(context, config);
  std::set<std::string> quantized;
  for (const StoredLinear& linear : linears) quantized.insert(linear.shape.module);
  check_plain_modules(context, rules, quantized);
  check_quantized_modules(context, rules, linears);
  check_parts_are_owned(context, linears);
  check_inputs(context, linears);
}

}  // namespace quant::verify
