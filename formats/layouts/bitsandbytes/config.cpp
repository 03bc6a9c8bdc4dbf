#include "layouts/bitsandbytes/config.h"

#include <fmt/format.h>

#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::bitsandbytes {
namespace {

using Json = nlohmann::ordered_json;

// What all linears of a model share.
struct Settings {
  bool int8 = false, nested = false;
  Codebook codebook = Codebook::nf4;
  double threshold = 6.0;
};

Settings settings_of(const SchemeGroup& group) {
  const QuantArgs& args = *group.scheme.weights;
  Settings settings;
  settings.int8 = args.type == NumberType::integer;
  settings.nested = args.double_quant;
  settings.codebook = args.codebook;
  if (settings.int8) settings.threshold = group.scheme.input_activations->outlier_threshold;
  return settings;
}

std::string describe(const Settings& settings) {
  if (settings.int8) return fmt::format("8 bits with outlier_threshold {}", settings.threshold);
  return std::string(to_string(settings.codebook));
}

bool says(const Json& config, const char* key) {
  return config.value(key, Json()) == true || config.value(std::string("_") + key, Json()) == true;
}

Json parse_config(const ModelConfig& model) { return stored::method_config(model, {"bitsandbytes"}); }

}  // namespace

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore) {
  Json root = stored::config_root(model);
  if (const auto problems = contradictions(groups); !problems.empty()) throw Error(ErrorCode::usage, problems.front());
  Settings settings;
  if (!groups.empty()) settings = settings_of(groups.front());
  for (const SchemeGroup& group : groups) settings.nested = settings.nested || group.scheme.weights->double_quant;
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
                                 {"llm_int8_skip_modules", Json(ignore)},
                                 {"llm_int8_threshold", settings.threshold},
                                 {"load_in_4bit", !settings.int8},
                                 {"load_in_8bit", settings.int8}};
  return stored::config_text(root);
}

std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) {
  std::vector<std::string> problems;
  for (const SchemeGroup& group : groups) {
    const std::string first = describe(settings_of(groups.front())), here = describe(settings_of(group));
    if (first == here) continue;
    problems.push_back(fmt::format(
        "the layout bitsandbytes has one type of weights for a whole model: {} is {} and {} is {}; use one of them, or "
        "--layout libquant",
        groups.front().name, first, group.name, here));
  }
  return problems;
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
