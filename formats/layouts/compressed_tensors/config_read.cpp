#include "layouts/compressed_tensors/config_read.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

using Json = nlohmann::ordered_json;
using stored::parse_json;

/// A JSON value and how to call it in messages: "quantization_config.config_groups.group_0.weights.num_bits".
struct Value {
  const Json& json;
  std::string path;

  [[noreturn]] void fail(std::string_view expected) const {
    const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60);
    throw Error(ErrorCode::corrupt_file, fmt::format("config.json: {} is {}, not {}", path, text, expected));
  }
  /// The member of that name; null if absent or null.
  std::optional<Value> member(const std::string& key) const {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return std::nullopt;
    return Value{*found, path + "." + key};
  }
  std::string text(std::string_view expected = "text") const {
    if (!json.is_string()) fail(expected);
    return json.get<std::string>();
  }
  bool boolean() const {
    if (!json.is_boolean()) fail("true or false");
    return json.get<bool>();
  }
  std::int64_t integer() const {
    if (!json.is_number_integer()) fail("a whole number");
    if (json.is_number_unsigned() && json.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      fail("a number below 2^31");
    }
    const auto value = json.get<std::int64_t>();
    if (value < std::numeric_limits<std::int32_t>::min()) fail("a number above -2^31");
    return value;
  }
  void require_object() const {
    if (!json.is_object()) fail("an object");
  }
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

NumberType read_type(const Value& value) {
  const std::string text = lower(value.text());
  if (text == "int") return NumberType::integer;
  if (text != "float") value.fail("\"int\" or \"float\"");
  return NumberType::floating;
}

Strategy read_strategy(const Value& value) {
  const std::string text = lower(value.text());
  for (const auto strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block, Strategy::token,
                              Strategy::tensor_group, Strategy::attn_head}) {
    if (text == to_string(strategy)) return strategy;
  }
  value.fail("a strategy");
}

/// [128, 128], or the older "128x128".
std::array<std::uint64_t, 2> read_block(const Value& value) {
  std::array<std::uint64_t, 2> block{};
  if (value.json.is_array() && value.json.size() == 2) {
    for (std::size_t i = 0; i < 2; ++i) {
      const std::int64_t size = Value{value.json[i], value.path}.integer();
      if (size <= 0) value.fail("two positive numbers");
      block[i] = static_cast<std::uint64_t>(size);
    }
    return block;
  }
  const std::string text = value.text("[rows, columns]");
  const char* const end = text.data() + text.size();
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  const auto first = std::from_chars(text.data(), end, rows);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != 'x') value.fail("[rows, columns]");
  const auto second = std::from_chars(first.ptr + 1, end, cols);
  if (second.ec != std::errc{} || second.ptr != end || rows == 0 || cols == 0) value.fail("[rows, columns]");
  return {rows, cols};
}

Dynamic read_dynamic(const Value& value) {
  if (value.json.is_string()) {
    if (lower(value.text()) != "local") value.fail("true, false or \"local\"");
    return Dynamic::local;
  }
  return value.boolean() ? Dynamic::yes : Dynamic::no;
}

ActOrder read_actorder(const Value& value) {
  if (value.json.is_boolean()) return value.boolean() ? ActOrder::group : ActOrder::none;
  const std::string text = lower(value.text());
  if (text == "group" || text == "dynamic") return ActOrder::group;
  if (text != "weight" && text != "static") value.fail("an activation order");
  return ActOrder::weight;
}

DType read_dtype(const Value& value) {
  const auto type = parse_torch_dtype(value.text());
  if (!type) value.fail("a PyTorch type");
  return *type;
}

std::map<std::string, KwValue> read_kwargs(const Value& value) {
  value.require_object();
  std::map<std::string, KwValue> kwargs;
  for (const auto& [key, item] : value.json.items()) {
    if (item.is_boolean())
      kwargs[key] = item.get<bool>();
    else if (item.is_number_integer())
      kwargs[key] = item.get<std::int64_t>();
    else if (item.is_number())
      kwargs[key] = item.get<double>();
    else if (item.is_string())
      kwargs[key] = item.get<std::string>();
  }
  return kwargs;
}

void read_grouping(const Value& value, QuantArgs& args) {
  if (const auto v = value.member("strategy")) args.strategy = read_strategy(*v);
  if (const auto v = value.member("group_size")) args.group_size = v->integer();
  if (const auto v = value.member("block_structure")) args.block_structure = read_block(*v);
  // Group sizes of 0 and below other than -1 never came from the package; -1 means one scale per row.
  if (args.group_size && *args.group_size != -1 && *args.group_size <= 0) {
    Value{value.json["group_size"], value.path + ".group_size"}.fail("-1 or a positive number");
  }
}

std::optional<QuantArgs> read_args(const Value& scheme, const std::string& key) {
  const auto value = scheme.member(key);
  if (!value) return std::nullopt;
  value->require_object();
  QuantArgs args;
  if (const auto v = value->member("num_bits")) args.num_bits = static_cast<int>(v->integer());
  if (const auto v = value->member("type")) args.type = read_type(*v);
  if (const auto v = value->member("symmetric")) args.symmetric = v->boolean();
  if (const auto v = value->member("dynamic")) args.dynamic = read_dynamic(*v);
  if (const auto v = value->member("actorder")) args.actorder = read_actorder(*v);
  if (const auto v = value->member("scale_dtype")) args.scale_dtype = read_dtype(*v);
  if (const auto v = value->member("zp_dtype")) args.zp_dtype = read_dtype(*v);
  if (const auto v = value->member("observer")) args.observer = v->text();
  if (const auto v = value->member("observer_kwargs")) args.observer_kwargs = read_kwargs(*v);
  read_grouping(*value, args);
  if (args.num_bits < 1 || args.num_bits > 32) value->member("num_bits")->fail("a number of bits");
  return args;
}

/// Weights must be valid as a whole, since their codes will be read; activations are only passed on.
void check_weights(QuantArgs& args, const Value& scheme, bool strategy_given) {
  const std::vector<std::string> problems = complete_and_check(args, strategy_given);
  if (problems.empty()) return;
  throw Error(ErrorCode::corrupt_file, fmt::format("config.json: {}.weights: {}", scheme.path, problems.front()));
}

/// The files of NVFP4 and MXFP4 of some versions leave out what their format implies.
void fill_in_from_format(Scheme& scheme, const std::string& format) {
  if (!scheme.weights || scheme.weights->type != NumberType::floating) return;
  QuantArgs& args = *scheme.weights;
  if (format == "nvfp4-pack-quantized" && args.strategy == Strategy::group) args.strategy = Strategy::tensor_group;
  if (format == "mxfp4-pack-quantized" || format == "mxfp8-quantized") args.scale_dtype = DType::U8;
}

std::vector<std::string> read_names(const Value& value) {
  std::vector<std::string> names;
  if (!value.json.is_array()) value.fail("a list of names");
  for (const auto& item : value.json) names.push_back(Value{item, value.path}.text("a list of names"));
  return names;
}

Scheme read_scheme(const Value& group, const std::string& name, const std::string& model_format) {
  if (group.json.is_array()) {  // shorthand {"W4A16": ["Linear"]}
    auto preset = preset_scheme(name);
    if (!preset)
      throw Error(ErrorCode::corrupt_file, fmt::format("config.json: {} names no preset scheme", group.path));
    preset->targets = read_names(group);
    return *preset;
  }
  group.require_object();
  Scheme scheme;
  if (const auto v = group.member("targets")) scheme.targets = read_names(*v);
  if (const auto v = group.member("format")) scheme.format = v->text();
  scheme.weights = read_args(group, "weights");
  scheme.input_activations = read_args(group, "input_activations");
  scheme.output_activations = read_args(group, "output_activations");
  fill_in_from_format(scheme, scheme.format.value_or(model_format));
  if (scheme.weights) {
    check_weights(*scheme.weights, group, group.member("weights")->member("strategy").has_value());
  }
  return scheme;
}

/// "0.18.0" and later pack densely.
bool is_before_dense_packing(const std::string& version) {
  unsigned major = 0;
  unsigned minor = 0;
  const char* const end = version.data() + version.size();
  const auto first = std::from_chars(version.data(), end, major);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != '.') return true;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc{}) return true;
  return major == 0 && minor < 18;
}

Json parse_config(const ModelConfig& model) {
  Json config = parse_json(model.quantization_config, "config.json: quantization_config");
  if (!config.is_object()) {
    throw Error(ErrorCode::corrupt_file, "config.json: quantization_config is not an object");
  }
  return config;
}

/// Sparse storage was dropped by the Python package as well; its tensors would be taken for missing ones.
void refuse_sparse(const Value& root) {
  const auto sparsity = root.member("sparsity_config");
  if (!sparsity || !sparsity->json.is_object()) return;
  const auto format = sparsity->member("format");
  if (!format || format->text() == "dense") return;
  throw Error(ErrorCode::unsupported,
              fmt::format("config.json: weights stored as \"{}\" cannot be read", format->text()),
              "decompress the model with compressed-tensors 0.14 or older first");
}

}  // namespace

bool says_compressed_tensors(const ModelConfig& model) {
  return stored::method_config(model, {"compressed-tensors"}).is_object();
}

std::optional<QuantArgs> kv_cache_scheme(const ModelConfig& model) {
  const Json config = parse_config(model);
  return read_args({config, "quantization_config"}, "kv_cache_scheme");
}

SchemeTable::SchemeTable(const ModelConfig& model) {
  const Json config = parse_config(model);
  const Value root{config, "quantization_config"};
  refuse_sparse(root);
  if (const auto format = root.member("format")) format_ = format->text();
  if (const auto version = root.member("version")) old_version_ = is_before_dense_packing(version->text());
  const auto groups = root.member("config_groups");
  if (!groups) throw Error(ErrorCode::corrupt_file, "config.json: quantization_config has no config_groups");
  groups->require_object();
  for (const auto& [name, group] : groups->json.items())
    add(read_scheme({group, groups->path + "." + name}, name, format_));
  std::sort(patterns_.begin(), patterns_.end(),
            [](const auto& a, const auto& b) { return a.first.text() < b.first.text(); });
}

void SchemeTable::add(Scheme scheme) {
  if (!scheme.weights) return;
  schemes_.push_back(std::make_unique<Scheme>(std::move(scheme)));
  const Scheme* added = schemes_.back().get();
  for (const auto& target : added->targets) {
    if (!target.starts_with("re:")) {
      names_.emplace(target, added);
      continue;
    }
    try {
      patterns_.emplace_back(NamePattern(target), added);
    } catch (const Error& problem) {
      throw Error(ErrorCode::corrupt_file, fmt::format("config.json: target \"{}\": {}", target, problem.what()));
    }
  }
}

const Scheme* SchemeTable::find_class(std::string_view class_name) const {
  const auto found = names_.find(std::string(class_name));
  return found == names_.end() ? nullptr : found->second;
}

const Scheme* SchemeTable::find(const std::string& module) const {
  if (const Scheme* scheme = find_class(module)) return scheme;  // exact names win, then patterns, then classes
  for (const auto& [pattern, scheme] : patterns_) {
    if (pattern.match(module, "")) return scheme;
  }
  // A checkpoint does not say of which class a module is; embeddings are told by their name.
  const bool embedding = module.find("embed") != std::string::npos || module.ends_with("wte");
  if (const Scheme* scheme = find_class(embedding ? "Embedding" : "Linear")) return scheme;
  return schemes_.size() == 1 ? schemes_.front().get() : nullptr;
}

}  // namespace quant::compressed_tensors
