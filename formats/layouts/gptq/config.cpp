#include "layouts/gptq/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "layouts/stored/json_value.h"
#include "quant/error.h"
#include "quant/version.h"

namespace quant::gptq_layout {
namespace {

using Json = nlohmann::ordered_json;
using stored::fail_key;
using stored::first_of;

std::int64_t integer(const Json& value, const char* key) {
  constexpr std::int64_t kLargest = 1 << 30;
  if (!value.is_number_integer()) fail_key(key, "a whole number");
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kLargest)) {
    fail_key(key, "a number below 2^30");
  }
  const auto number = value.get<std::int64_t>();
  if (number < -1) fail_key(key, "-1 or more");
  return number;
}

[[noreturn]] void refuse_packing(std::string_view packing) {
  throw Error(ErrorCode::unsupported, fmt::format("GPTQ weights packed as '{}' cannot be read", packing),
              "save the model as gptq or gptq_v2 with the package that wrote it", "UnknownPacking");
}

Version read_version(const Json& config) {
  if (const Json* marlin = first_of(config, {"is_marlin_format"}); marlin != nullptr && *marlin == true) {
    refuse_packing("marlin");
  }
  if (const Json* words = first_of(config, {"pack_dtype"}); words != nullptr && *words != "int32") {
    refuse_packing(words->is_string() ? words->get_ref<const std::string&>() : "unknown words");
  }
  const Json* format = first_of(config, {"checkpoint_format", "format"});
  if (format == nullptr) return Version::v1;
  if (!format->is_string()) fail_key("checkpoint_format", "text");
  const auto& name = format->get_ref<const std::string&>();
  if (name == "gemm") return Version::v1;  // how version 1 was called at first
  const auto version = parse_version(name);
  if (!version) refuse_packing(name);
  return *version;
}

bool is_gptqmodel(const Json& name) {
  return name.is_string() && name.get_ref<const std::string&>().starts_with("gptqmodel");
}

bool written_by_gptqmodel(const Json& config) {
  const Json* meta = first_of(config, {"meta"});
  if (meta == nullptr || !meta->is_object()) return false;
  const Json* writers = first_of(*meta, {"quantizer", "packer"});
  if (writers == nullptr) return false;
  return is_gptqmodel(*writers) || (writers->is_array() && std::any_of(writers->begin(), writers->end(), is_gptqmodel));
}

// What single modules have other than the model's own, by GPTQModel's rules: "+:" and a pattern that a name begins
// with.
Json differences(const Scheme& scheme, const Scheme& base) {
  const QuantArgs &args = *scheme.weights, &usual = *base.weights;
  Json json = Json::object();
  if (args.num_bits != usual.num_bits) json["bits"] = args.num_bits;
  const auto group = [](const QuantArgs& of) { return of.strategy == Strategy::group ? *of.group_size : -1; };
  if (group(args) != group(usual)) json["group_size"] = group(args);
  if (args.symmetric != usual.symmetric) json["sym"] = args.symmetric;
  const auto ordered = [](const QuantArgs& of) { return of.actorder == ActOrder::group; };
  if (ordered(args) != ordered(usual)) json["desc_act"] = ordered(args);
  return json;
}

std::string pattern(std::string_view prefix, const std::string& module) {
  std::string text(prefix);
  text += '^';
  for (const char c : module) {
    if (std::string_view(".+*?()[]{}|^$\\").find(c) != std::string_view::npos) text += '\\';
    text += c;
  }
  return text + "$";
}

bool is_head(const std::string& module) { return module == "lm_head" || module.ends_with(".lm_head"); }

const SchemeGroup& largest_group(const std::vector<SchemeGroup>& groups) {
  return *std::max_element(groups.begin(), groups.end(), [](const SchemeGroup& a, const SchemeGroup& b) {
    return a.linears.size() < b.linears.size();
  });
}

// Modules that loaders would take for quantized ones of the usual kind. They leave the head alone unless told.
Json exceptions(const std::vector<SchemeGroup>& groups, const Scheme& base, const std::vector<std::string>& ignore) {
  Json dynamic = Json::object();
  for (const std::string& module : ignore) {
    if (!is_head(module)) dynamic[pattern("-:", module)] = Json::object();
  }
  for (const SchemeGroup& group : groups) {
    const Json other = differences(group.scheme, base);
    if (other.empty()) continue;
    for (const LinearShape& linear : group.linears) dynamic[pattern("+:", linear.module)] = other;
  }
  return dynamic;
}

}  // namespace

bool says_gptq(const ModelConfig& model) { return stored::method_config(model, {"gptq"}).is_object(); }

Label read_label(const ModelConfig& model) {
  const Json config = stored::method_config(model, {"gptq"});
  Label label;
  if (!config.is_object()) return label;
  if (const Json* bits = first_of(config, {"bits"})) label.bits = static_cast<int>(integer(*bits, "bits"));
  if (const Json* group = first_of(config, {"group_size"})) label.group_size = integer(*group, "group_size");
  if (const Json* sym = first_of(config, {"sym"})) {
    if (!sym->is_boolean()) fail_key("sym", "true or false");
    label.symmetric = sym->get<bool>();
  }
  label.version = read_version(config);
  label.whole_words = written_by_gptqmodel(config);
  return label;
}

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore) {
  Json root = stored::config_root(model);
  if (const auto problems = contradictions(groups); !problems.empty()) throw Error(ErrorCode::usage, problems.front());
  Scheme base;
  base.weights.emplace().num_bits = 4;
  if (!groups.empty()) base = largest_group(groups).scheme;
  const QuantArgs& args = *base.weights;
  const auto any = [&](const auto& holds) { return std::any_of(groups.begin(), groups.end(), holds); };
  const bool head = any([](const SchemeGroup& group) {
    return std::any_of(group.linears.begin(), group.linears.end(),
                       [](const LinearShape& linear) { return is_head(linear.module); });
  });
  const std::string_view format = to_string(version_of(base));
  Json config = {{"quant_method", "gptq"},
                 {"bits", args.num_bits},
                 {"group_size", args.strategy == Strategy::group ? *args.group_size : -1},
                 {"desc_act", args.actorder == ActOrder::group},
                 {"sym", args.symmetric},
                 {"lm_head", head},
                 {"checkpoint_format", format},
                 {"format", format},
                 {"pack_dtype", "int32"},
                 {"meta", {{"quantizer", Json::array({fmt::format("libquant:{}", version())})}}}};
  Json dynamic = exceptions(groups, base, ignore);
  if (!dynamic.empty()) config["dynamic"] = std::move(dynamic);
  root["quantization_config"] = std::move(config);
  return stored::config_text(root);
}

std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) {
  std::vector<std::string> problems;
  for (const SchemeGroup& group : groups) {
    const Version first = version_of(groups.front().scheme), here = version_of(group.scheme);
    if (first == here) continue;
    problems.push_back(fmt::format(
        "a GPTQ checkpoint stores all zero points in one way: {} is {} and {} is {}; give both format: gptq_v2",
        groups.front().name, to_string(first), group.name, to_string(here)));
  }
  return problems;
}

}  // namespace quant::gptq_layout
