#include "layouts/bitsandbytes/quant_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "layouts/compressed_tensors/json_value.h"
#include "quant/error.h"

namespace quant::bitsandbytes {
namespace {

using Json = nlohmann::ordered_json;
using compressed_tensors::parse_json;

constexpr std::uint64_t kOffsetDigits = 24;  // the longest shortest form of a double

[[noreturn]] void fail(const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("tensor {}: {}", tensor, problem), "", "BadQuantState");
}

std::string shortest(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  std::string result(text.data(), end);
  if (result.find_first_of(".en") == std::string::npos) result += ".0";
  return result;
}

std::string unpadded(const QuantArgs& args, const LinearShape& linear, const std::string& offset) {
  std::string text =
      fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}])",
                  to_string(args.codebook), *args.group_size, torch_dtype_name(linear.dtype), linear.rows, linear.cols);
  if (args.double_quant) {
    text += fmt::format(R"(, "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {})", kNestedBlock,
                        offset);
  }
  return text + "}";
}

const Json& member(const Json& json, const char* key, const std::string& tensor) {
  const auto found = json.find(key);
  if (found == json.end()) fail(tensor, fmt::format("has no '{}'", key));
  return *found;
}

std::uint64_t natural(const Json& json, const char* key, const std::string& tensor) {
  constexpr std::uint64_t kLargest = std::uint64_t{1} << 48;
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() == 0 || json.get<std::uint64_t>() > kLargest) {
    fail(tensor, fmt::format("'{}' is not a positive whole number", key));
  }
  return json.get<std::uint64_t>();
}

void read_nested(const Json& json, const std::string& tensor, QuantState& state) {
  if (!json.contains("nested_offset")) return;
  state.args.double_quant = true;
  const std::uint64_t block = natural(member(json, "nested_blocksize", tensor), "nested_blocksize", tensor);
  if (block != kNestedBlock) {
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor {}: nested_blocksize is {}; {} can be read", tensor, block, kNestedBlock));
  }
  const Json& offset = json["nested_offset"];
  if (!offset.is_number()) fail(tensor, "'nested_offset' is not a number");
  state.nested_offset = offset.get<float>();
  if (!std::isfinite(state.nested_offset)) fail(tensor, "'nested_offset' is not a finite number");
}

}  // namespace

std::string state_suffix(Codebook codebook) {
  return fmt::format(".weight.quant_state.bitsandbytes__{}", to_string(codebook));
}

std::uint64_t state_bytes(const QuantArgs& args, const LinearShape& linear) {
  return unpadded(args, linear, std::string(kOffsetDigits, '0')).size();
}

std::string state_text(const QuantArgs& args, const LinearShape& linear, float nested_offset) {
  std::string text = unpadded(args, linear, shortest(static_cast<double>(nested_offset)));
  text.resize(state_bytes(args, linear), ' ');
  return text;
}

QuantState parse_state(const std::string& text, const std::string& module, Codebook codebook,
                       const std::string& tensor) {
  const Json json = parse_json(text, tensor);
  if (!json.is_object()) fail(tensor, "is not a JSON object");
  QuantState state;
  state.args.type = NumberType::codebook;
  state.args.num_bits = 4;
  state.args.codebook = codebook;
  if (member(json, "quant_type", tensor) != to_string(codebook)) fail(tensor, "'quant_type' contradicts its name");
  const Json& shape = member(json, "shape", tensor);
  if (!shape.is_array() || shape.size() != 2) {
    throw Error(ErrorCode::unsupported, fmt::format("tensor {}: only matrices can be read", tensor));
  }
  state.shape.module = module;
  state.shape.rows = natural(shape[0], "shape", tensor);
  state.shape.cols = natural(shape[1], "shape", tensor);
  checked_mul(state.shape.rows, state.shape.cols, tensor);
  const std::uint64_t block = natural(member(json, "blocksize", tensor), "blocksize", tensor);
  state.args.group_size = static_cast<std::int64_t>(block);
  // Blocks that end with the rows are groups; others run across rows.
  state.args.strategy = state.shape.cols % block == 0 ? Strategy::group : Strategy::flat;
  const Json& dtype = member(json, "dtype", tensor);
  const auto type = dtype.is_string() ? parse_torch_dtype(dtype.get<std::string>()) : std::nullopt;
  if (type != DType::F32 && type != DType::F16 && type != DType::BF16) fail(tensor, "'dtype' is no type of weights");
  state.shape.dtype = *type;
  read_nested(json, tensor, state);
  const auto problems = complete_and_check(state.args, true);
  if (!problems.empty()) fail(tensor, problems.front());
  return state;
}

namespace {

// What all linears of a model share.
struct Settings {
  bool int8 = false, nested = false;
  Codebook codebook = Codebook::nf4;
  double threshold = 6.0;
};

Settings settings_of(const std::vector<SchemeGroup>& groups) {
  Settings settings;
  for (const SchemeGroup& group : groups) {
    const QuantArgs& args = *group.scheme.weights;
    const bool int8 = args.type == NumberType::integer;
    const double threshold = int8 ? group.scheme.input_activations->outlier_threshold : settings.threshold;
    if (&group != &groups.front()) {
      if (int8 != settings.int8 || threshold != settings.threshold) {
        throw Error(ErrorCode::usage,
                    "bitsandbytes has one width and one outlier_threshold for all linears of a model, not several",
                    "use one of them, or --layout libquant");
      }
      if (args.codebook != settings.codebook) {
        throw Error(ErrorCode::usage, "bitsandbytes has one quant_type for all linears of a model, not nf4 and fp4",
                    "use one of them, or --layout libquant");
      }
    }
    settings.int8 = int8;
    settings.threshold = threshold;
    settings.codebook = args.codebook;
    settings.nested = settings.nested || args.double_quant;
  }
  return settings;
}

bool says(const Json& config, const char* key) {
  return config.value(key, Json()) == true || config.value(std::string("_") + key, Json()) == true;
}

Json parse_config(const ModelConfig& model) {
  if (model.quantization_config.empty()) return {};
  try {
    Json config = parse_json(model.quantization_config, "config.json");
    if (config.is_object() && config.value("quant_method", Json()) == "bitsandbytes") return config;
  } catch (const Error&) {
    return {};
  }
  return {};
}

}  // namespace

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore) {
  Json root = Json::object();
  if (!model.text.empty()) root = parse_json(model.text, "config.json");
  if (!root.is_object()) throw Error(ErrorCode::corrupt_file, "config.json is not a JSON object");
  const Settings settings = settings_of(groups);
  const DType compute = model.dtype.value_or(DType::F32);
  const bool half = !settings.int8 && (compute == DType::F16 || compute == DType::BF16);
  root["quantization_config"] = {{"quant_method", "bitsandbytes"},
                                 {"_load_in_4bit", !settings.int8},
                                 {"_load_in_8bit", settings.int8},
                                 {"bnb_4bit_compute_dtype", half ? torch_dtype_name(compute) : "float32"},
                                 {"bnb_4bit_quant_storage", "uint8"},
                                 {"bnb_4bit_quant_type", settings.int8 ? "fp4" : to_string(settings.codebook)},
                                 {"bnb_4bit_use_double_quant", settings.nested},
                                 {"llm_int8_enable_fp32_cpu_offload", false},
                                 {"llm_int8_has_fp16_weight", false},
                                 {"llm_int8_skip_modules", ignore.empty() ? Json(nullptr) : Json(ignore)},
                                 {"llm_int8_threshold", settings.threshold},
                                 {"load_in_4bit", !settings.int8},
                                 {"load_in_8bit", settings.int8}};
  return root.dump(2) + "\n";
}

bool says_bitsandbytes(const ModelConfig& model) {
  const Json config = parse_config(model);
  return config.is_object() && (says(config, "load_in_4bit") || says(config, "load_in_8bit"));
}

std::optional<double> int8_threshold(const ModelConfig& model) {
  const Json config = parse_config(model);
  if (!config.is_object() || !says(config, "load_in_8bit")) return std::nullopt;
  const Json given = config.value("llm_int8_threshold", Json(6.0));
  const double threshold = given.is_number() ? given.get<double>() : -1;
  if (threshold >= 0 && threshold <= 1e6) return threshold;
  throw Error(ErrorCode::corrupt_file,
              "config.json: quantization_config.llm_int8_threshold is not a number from 0 to 1000000", "",
              "BadQuantizationConfig");
}

}  // namespace quant::bitsandbytes
