#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "quant/checkpoint.h"
#include "quant/error.h"

namespace quant {
namespace {

using Json = nlohmann::ordered_json;

// Deep nesting is harmless to parse but not to print.
constexpr int kMaxDepth = 64;

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& reason, const char* hint) {
  throw Error(ErrorCode::corrupt_file, fmt::format("'{}' is no model configuration: {}.", path.string(), reason), hint,
              "InvalidConfig");
}

Json parse_object(const std::string& text, const std::filesystem::path& path) {
  const char* hint = "Fetch the file again. JSON has no Infinity and no NaN, though some programs write them.";
  // The JSON library skips a byte order mark, and takes a NUL byte for the end of the text.
  if (const auto nul = text.find('\0'); nul != std::string::npos) fail(path, fmt::format("byte {} is NUL", nul), hint);
  if (text.starts_with("\xEF\xBB\xBF")) fail(path, "it starts with a byte order mark", "Save it as plain UTF-8.");
  const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fail(path, fmt::format("it is nested deeper than {} levels", kMaxDepth), hint);
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, limit_depth);
  } catch (const Json::parse_error& error) {
    fail(path, fmt::format("it is not valid JSON at byte {}", error.byte), hint);
  } catch (const Json::exception&) {
    fail(path, "it holds a number that no program can represent", hint);
  }
  if (!json.is_object()) fail(path, "it is not a JSON object", hint);
  return json;
}

// A member that is there and not null.
const Json* member(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

[[noreturn]] void fail_type(const std::filesystem::path& path, const char* key, const char* wanted, const Json& found) {
  fail(path, fmt::format("'{}' is {} where {} belongs", key, found.type_name(), wanted), "Correct the file.");
}

// The member, or the one of `text_config`, which is where multimodal models have what belongs to their language model.
const Json* own_or_text_member(const Json& config, const char* key) {
  if (const Json* own = member(config, key)) return own;
  const Json* text_config = member(config, "text_config");
  return text_config != nullptr && text_config->is_object() ? member(*text_config, key) : nullptr;
}

std::vector<std::string> read_architectures(const Json& config, const std::filesystem::path& path) {
  std::vector<std::string> names;
  const Json* list = member(config, "architectures");
  if (list == nullptr) return names;
  if (!list->is_array()) fail_type(path, "architectures", "an array of strings", *list);
  for (const Json& name : *list) {
    if (!name.is_string()) fail_type(path, "architectures", "an array of strings", name);
    names.push_back(name.get<std::string>());
  }
  return names;
}

// Transformers wrote `torch_dtype` up to version 4 and writes `dtype` since. A word that names no type ("auto"), or a
// type per part of the model, says nothing about all tensors.
std::optional<DType> read_dtype(const Json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const Json* value = own_or_text_member(config, key);
    if (value == nullptr || !value->is_string()) continue;
    if (const auto dtype = parse_torch_dtype(value->get_ref<const std::string&>())) return dtype;
  }
  return std::nullopt;
}

}  // namespace

ModelConfig parse_model_config(std::string text, const std::filesystem::path& path) {
  const Json json = parse_object(text, path);
  ModelConfig config;
  if (const Json* type = member(json, "model_type")) {
    if (!type->is_string()) fail_type(path, "model_type", "a string", *type);
    config.model_type = type->get<std::string>();
  }
  config.architectures = read_architectures(json, path);
  if (const Json* tie = own_or_text_member(json, "tie_word_embeddings")) {
    if (!tie->is_boolean()) fail_type(path, "tie_word_embeddings", "true or false", *tie);
    config.tie_word_embeddings = tie->get<bool>();
  }
  config.dtype = read_dtype(json);
  if (const Json* quantization = own_or_text_member(json, "quantization_config")) {
    if (!quantization->is_object()) fail_type(path, "quantization_config", "an object", *quantization);
    config.quantization_config = quantization->dump();
  }
  config.text = std::move(text);
  return config;
}

std::string parse_quantization_beside(std::string_view text, const std::filesystem::path& path,
                                      std::string_view method) {
  Json json = parse_object(std::string(text), path);
  const auto named = json.find("quant_method");
  if (named == json.end() || named->is_null()) json["quant_method"] = method;
  return json.dump();
}

}  // namespace quant
