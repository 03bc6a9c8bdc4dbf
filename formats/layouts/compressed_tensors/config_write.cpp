#include "layouts/compressed_tensors/config_write.h"

#include <set>

#include "layouts/compressed_tensors/formats.h"
#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

using Json = nlohmann::json;  // keys sorted, as the Python package writes them
using stored::parse_json;

// Codes are packed densely since this version; readers that look at the version must not see an older one.
constexpr const char* kVersion = "0.18.0";

template <typename T>
Json value_or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

std::string torch_name(DType type) { return "torch." + std::string(torch_dtype_name(type)); }

Json scale_dtype_json(const QuantArgs& args) {
  if (is_mx(args)) return "torch.uint8";
  if (is_nvfp4(args)) return "torch.float8_e4m3fn";
  return args.scale_dtype ? Json(torch_name(*args.scale_dtype)) : Json(nullptr);
}

Json dynamic_json(Dynamic dynamic) {
  if (dynamic == Dynamic::local) return "local";
  return dynamic == Dynamic::yes;
}

Json actorder_json(const QuantArgs& args) {
  if (!args.actorder || *args.actorder == ActOrder::none) return nullptr;
  return std::string(to_string(*args.actorder));
}

Json kwargs_json(const QuantArgs& args) {
  Json object = Json::object();
  for (const auto& [key, value] : args.observer_kwargs) {
    object[key] = std::visit([](const auto& v) { return Json(v); }, value);
  }
  return object;
}

Json block_json(const QuantArgs& args) {
  if (!args.block_structure) return nullptr;
  return Json::array({(*args.block_structure)[0], (*args.block_structure)[1]});
}

Json observer_json(const QuantArgs& args) {
  if (args.dynamic == Dynamic::yes) return nullptr;
  return args.observer.value_or("memoryless_minmax");
}

Json args_json(const std::optional<QuantArgs>& maybe) {
  if (!maybe) return nullptr;
  const QuantArgs& args = *maybe;
  Json json = {{"actorder", actorder_json(args)},
               {"block_structure", block_json(args)},
               {"dynamic", dynamic_json(args.dynamic)},
               {"group_size", value_or_null(args.group_size)},
               {"num_bits", args.num_bits},
               {"observer", observer_json(args)},
               {"observer_kwargs", kwargs_json(args)},
               {"scale_dtype", scale_dtype_json(args)},
               {"strategy", std::string(to_string(args.strategy))},
               {"symmetric", args.symmetric},
               {"type", std::string(to_string(args.type))},
               {"zp_dtype", args.symmetric ? Json(nullptr) : Json(torch_name(args.zp_dtype.value_or(DType::I8)))}};
  // Other readers take every 8-bit float for E4M3 and would compute with garbage. They refuse keys that they do not
  // know, so this one makes them stop instead.
  if (element_dtype(args) == DType::F8_E5M2) json["float8_format"] = "e5m2";
  return json;
}

Json scheme_json(const Scheme& scheme) {
  const Json format = scheme.weights ? Json(std::string(format_name(choose_format(scheme)))) : Json(nullptr);
  return {{"format", format},
          {"input_activations", args_json(scheme.input_activations)},
          {"output_activations", args_json(scheme.output_activations)},
          {"targets", scheme.targets},
          {"weights", args_json(scheme.weights)}};
}

std::string model_format(const std::vector<SchemeGroup>& groups) {
  std::set<Format> formats;
  for (const auto& group : groups) {
    if (group.scheme.weights) formats.insert(choose_format(group.scheme));
  }
  if (formats.empty()) return "dense";
  return formats.size() > 1 ? "mixed-precision" : std::string(format_name(*formats.begin()));
}

Json quantization_config(const std::vector<SchemeGroup>& groups, const std::vector<std::string>& ignore,
                         const std::optional<QuantArgs>& kv_cache) {
  Json config_groups = Json::object();
  for (const auto& group : groups) config_groups[group.name] = scheme_json(group.scheme);
  return {{"config_groups", std::move(config_groups)}, {"format", model_format(groups)},
          {"global_compression_ratio", nullptr},       {"ignore", ignore},
          {"kv_cache_scheme", args_json(kv_cache)},    {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"},       {"sparsity_config", Json::object()},
          {"transform_config", Json::object()},        {"version", kVersion}};
}

}  // namespace

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore, const std::optional<QuantArgs>& kv_cache) {
  nlohmann::ordered_json root = stored::config_root(model);
  root.erase("compression_config");  // the name that old versions used
  root["quantization_config"] = nlohmann::ordered_json(quantization_config(groups, ignore, kv_cache));
  return stored::config_text(root);
}

std::string with_kv_cache(const std::string& config_json, const QuantArgs& args) {
  auto root = nlohmann::ordered_json(parse_json(config_json, "config.json"));
  root["quantization_config"]["kv_cache_scheme"] = nlohmann::ordered_json(args_json(args));
  return root.dump(2) + "\n";
}

}  // namespace quant::compressed_tensors
