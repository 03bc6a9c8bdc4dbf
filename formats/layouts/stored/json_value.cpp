#include "layouts/stored/json_value.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/error.h"

namespace quant::stored {

using Json = nlohmann::ordered_json;

Json parse_json(std::string_view text, std::string_view what) {
  // Values are printed and copied by recursion, so depth is bounded while parsing.
  const Json::parser_callback_t check_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxJsonDepth) {
      throw Error(ErrorCode::corrupt_file, fmt::format("{} is nested deeper than {} levels", what, kMaxJsonDepth));
    }
    return true;
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::exception& problem) {
    throw Error(ErrorCode::corrupt_file, fmt::format("{} is not valid JSON: {}", what, problem.what()));
  }
}

Json config_root(const ModelConfig& model) {
  Json root = Json::object();
  if (!model.text.empty()) root = parse_json(model.text, "config.json");
  if (!root.is_object()) throw Error(ErrorCode::corrupt_file, "config.json is not a JSON object");
  // Of models of several parts, where loaders look as well; what a layout says of itself stands in the root.
  if (const auto part = root.find("text_config"); part != root.end() && part->is_object()) {
    part->erase("quantization_config");
  }
  return root;
}

std::string config_text(const Json& root) {
  try {
    return root.dump(2) + "\n";
  } catch (const Json::exception& problem) {
    throw Error(ErrorCode::corrupt_file, fmt::format("config.json cannot be written again: {}", problem.what()));
  }
}

Json method_config(const ModelConfig& model, std::initializer_list<std::string_view> methods) {
  if (model.quantization_config.empty()) return nullptr;
  try {
    Json config = parse_json(model.quantization_config, "config.json: quantization_config");
    if (!config.is_object()) return nullptr;
    for (const char* key : {"quant_method", "method"}) {
      const auto found = config.find(key);
      if (found == config.end() || !found->is_string()) continue;
      const auto& method = found->get_ref<const std::string&>();
      return std::find(methods.begin(), methods.end(), method) != methods.end() ? config : Json(nullptr);
    }
  } catch (const Error&) {  // text that is no JSON names no method
    return nullptr;
  }
  return nullptr;
}

const Json* first_of(const Json& config, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = config.find(key);
    if (found != config.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

void fail_key(const std::string& key, std::string_view expected) {
  throw Error(ErrorCode::corrupt_file, fmt::format("quantization_config.{} is not {}", key, expected), "",
              "BadQuantizationConfig");
}

}  // namespace quant::stored
