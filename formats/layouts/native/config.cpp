#include "layouts/native/config.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <optional>

#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::native {
namespace {

using Json = nlohmann::ordered_json;
using stored::parse_json;

constexpr const char* kMethod = "libquant";
/// Version 2 has linears without their zeros; what has none is written as version 1.
constexpr std::uint64_t kVersion = 2;
constexpr const char* kWhere = "config.json: quantization_config";

[[noreturn]] void fail(const std::string& path, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}{} {}", kWhere, path, problem), "", "BadQuantizationConfig");
}

const Json& member(const Json& object, const std::string& key, const std::string& path) {
  if (!object.is_object()) fail(path, "is not an object");
  const auto found = object.find(key);
  if (found == object.end()) fail(path, fmt::format("has no key '{}'", key));
  return *found;
}

std::string text(const Json& value, const std::string& path) {
  if (!value.is_string()) fail(path, "is not text");
  return value.get<std::string>();
}

std::uint64_t natural(const Json& value, const std::string& path) {
  constexpr std::uint64_t kLargest = std::uint64_t{1} << 48;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kLargest)
    fail(path, "is not a whole number up to 2^48");
  return value.get<std::uint64_t>();
}

double percent(const Json& value, const std::string& path) {
  if (!value.is_number()) fail(path, "is not a number");
  return value.get<double>();
}

template <class Value, std::size_t N>
Value choice(const Json& value, const std::array<Value, N>& values, const std::string& path) {
  const std::string name = text(value, path);
  for (const Value candidate : values) {
    if (name == to_string(candidate)) return candidate;
  }
  fail(path, fmt::format("is '{}', which this version does not know", name));
}

DType dtype(const Json& value, const std::string& path) {
  const auto type = parse_torch_dtype(text(value, path));
  if (!type) fail(path, "is no type of numbers");
  return *type;
}

Json weights_json(const QuantArgs& args) {
  if (is_plain(args)) return {{"type", to_string(args.type)}};
  Json json = {{"type", to_string(args.type)},
               {"num_bits", args.num_bits},
               {"symmetric", args.symmetric},
               {"strategy", to_string(args.strategy)}};
  if (args.group_size) json["group_size"] = *args.group_size;
  if (args.block_structure) json["block_structure"] = {(*args.block_structure)[0], (*args.block_structure)[1]};
  if (const auto range = args.observer_kwargs.find("symmetric_range"); range != args.observer_kwargs.end()) {
    json["symmetric_range"] = std::get<std::string>(range->second);
  }
  if (args.type == NumberType::codebook) json["codebook"] = to_string(args.codebook);
  if (has_blocks(args)) json["block"] = block_format(*args.block).name;
  if (args.scale_dtype) json["scale_dtype"] = torch_dtype_name(*args.scale_dtype);
  if (has_real_zero_points(args)) json["zp_dtype"] = torch_dtype_name(*args.zp_dtype);
  if (args.double_quant) json["double_quant"] = true;
  if (args.outlier_percent > 0) json["outlier_percent"] = args.outlier_percent;
  if (args.sensitive_percent > 0) json["sensitive_percent"] = args.sensitive_percent;
  return json;
}

QuantArgs read_weights(const Json& json, const std::string& path) {
  static constexpr std::array kTypes = {NumberType::integer, NumberType::codebook, NumberType::plain,
                                        NumberType::block};
  static constexpr std::array kStrategies = {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block,
                                             Strategy::flat};
  static constexpr std::array kCodebooks = {Codebook::learned, Codebook::nf4, Codebook::fp4, Codebook::sign};
  QuantArgs args;
  args.type = choice(member(json, "type", path), kTypes, path + ".type");
  if (is_plain(args)) return plain_args();
  args.num_bits = static_cast<int>(std::min<std::uint64_t>(natural(member(json, "num_bits", path), path), 1000));
  args.strategy = choice(member(json, "strategy", path), kStrategies, path + ".strategy");
  const Json& symmetric = member(json, "symmetric", path);
  if (!symmetric.is_boolean()) fail(path + ".symmetric", "is not true or false");
  args.symmetric = symmetric.get<bool>();
  const auto given = [&](const char* key) { return json.contains(key) ? &json[key] : nullptr; };
  if (const Json* v = given("group_size"))
    args.group_size = static_cast<std::int64_t>(natural(*v, path + ".group_size"));
  if (const Json* v = given("block_structure")) {
    if (!v->is_array() || v->size() != 2) fail(path + ".block_structure", "is not [rows, columns]");
    args.block_structure = {natural((*v)[0], path + ".block_structure"), natural((*v)[1], path + ".block_structure")};
  }
  if (const Json* v = given("symmetric_range")) args.observer_kwargs["symmetric_range"] = text(*v, path);
  if (const Json* v = given("codebook")) args.codebook = choice(*v, kCodebooks, path + ".codebook");
  if (const Json* v = given("block")) {
    const BlockFormat* format = find_block_format(text(*v, path + ".block"));
    if (format == nullptr) fail(path + ".block", "is no block format that this version knows");
    args.block = format->type;
  }
  if (const Json* v = given("scale_dtype")) args.scale_dtype = dtype(*v, path + ".scale_dtype");
  if (const Json* v = given("zp_dtype")) args.zp_dtype = dtype(*v, path + ".zp_dtype");
  if (const Json* v = given("double_quant")) {
    if (!v->is_boolean()) fail(path + ".double_quant", "is not true or false");
    args.double_quant = v->get<bool>();
  }
  if (const Json* v = given("outlier_percent")) args.outlier_percent = percent(*v, path + ".outlier_percent");
  if (const Json* v = given("sensitive_percent")) args.sensitive_percent = percent(*v, path + ".sensitive_percent");
  const auto problems = complete_and_check(args, true);
  if (!problems.empty()) fail(path, "is not valid: " + problems.front());
  return args;
}

LinearShape read_linear(const std::string& module, const Json& json, const std::string& path) {
  LinearShape linear;
  linear.module = module;
  const Json& shape = member(json, "shape", path);
  if (!shape.is_array() || shape.size() != 2) fail(path + ".shape", "is not [rows, columns]");
  linear.rows = natural(shape[0], path + ".shape");
  linear.cols = natural(shape[1], path + ".shape");
  if (linear.rows == 0 || linear.cols == 0) fail(path + ".shape", "has a size of 0");
  checked_mul(linear.rows, linear.cols, module);
  linear.dtype = dtype(member(json, "dtype", path), path + ".dtype");
  if (const auto found = json.find("sparsity"); found != json.end()) {
    const std::string inner = path + ".sparsity";
    StoredSparsity sparsity;
    sparsity.kept = natural(member(*found, "kept", inner), inner + ".kept");
    if (const auto pattern = found->find("pattern"); pattern != found->end()) {
      if (!pattern->is_array() || pattern->size() != 2) fail(inner + ".pattern", "is not [N, M]");
      const std::uint64_t keep = natural((*pattern)[0], inner + ".pattern");
      const std::uint64_t of = natural((*pattern)[1], inner + ".pattern");
      if (keep > of || of == 0 || of > linear.cols || of > UINT32_MAX) fail(inner + ".pattern", "is no N of M columns");
      sparsity.keep = static_cast<std::uint32_t>(keep);
      sparsity.of = static_cast<std::uint32_t>(of);
    }
    linear.sparsity = sparsity;
  }
  return linear;
}

}  // namespace

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore) {
  Json root = stored::config_root(model);
  Json schemes = Json::object();
  Json linears = Json::object();
  bool sparse = false;
  for (const SchemeGroup& group : groups) {
    schemes[group.name] = {{"targets", group.scheme.targets}, {"weights", weights_json(*group.scheme.weights)}};
    for (const LinearShape& linear : group.linears) {
      Json& entry = linears[linear.module];
      entry = {{"group", group.name}, {"shape", {linear.rows, linear.cols}}, {"dtype", torch_dtype_name(linear.dtype)}};
      if (!linear.sparsity) continue;
      sparse = true;
      entry["sparsity"] = {{"kept", linear.sparsity->kept}};
      if (linear.sparsity->of > 0) entry["sparsity"]["pattern"] = {linear.sparsity->keep, linear.sparsity->of};
    }
  }
  root["quantization_config"] = {{"quant_method", kMethod},
                                 {"version", sparse ? kVersion : 1},
                                 {"groups", std::move(schemes)},
                                 {"linears", std::move(linears)},
                                 {"ignore", ignore}};
  return stored::config_text(root);
}

bool says_libquant(const ModelConfig& model) { return stored::method_config(model, {kMethod}).is_object(); }

std::vector<ListedLinear> listed_linears(const ModelConfig& model) {
  const Json config = parse_json(model.quantization_config, kWhere);
  const std::uint64_t version = natural(member(config, "version", ""), ".version");
  if (version == 0 || version > kVersion) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}.version is {}; this program reads up to {}", kWhere, version, kVersion),
                "use a newer libquant");
  }
  std::map<std::string, QuantArgs> schemes;
  const Json& groups = member(config, "groups", "");
  if (!groups.is_object()) fail(".groups", "is not an object");
  for (const auto& [name, group] : groups.items()) {
    const std::string path = fmt::format(".groups.{}.weights", name);
    schemes[name] = read_weights(member(group, "weights", fmt::format(".groups.{}", name)), path);
  }
  std::vector<ListedLinear> linears;
  const Json& list = member(config, "linears", "");
  if (!list.is_object()) fail(".linears", "is not an object");
  for (const auto& [module, json] : list.items()) {
    const std::string path = fmt::format(".linears.{}", module);
    const std::string group = text(member(json, "group", path), path + ".group");
    const auto scheme = schemes.find(group);
    if (scheme == schemes.end()) fail(path + ".group", fmt::format("is '{}', which is not among the groups", group));
    linears.push_back({read_linear(module, json, path), scheme->second});
  }
  return linears;
}

}  // namespace quant::native
