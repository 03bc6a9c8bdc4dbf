#include "smoothing/json_text.h"

#include <fmt/format.h>

#include "quant/error.h"
#include "quant/names.h"

namespace quant::smoothing {

std::string text_parameter(const Parameters& parameters, const std::string& name) {
  const auto found = parameters.find(name);
  if (found == parameters.end()) return {};
  const auto* text = std::get_if<std::string>(&found->second);
  if (text == nullptr) throw Error(ErrorCode::recipe, fmt::format("{}: must be a text", name));
  return *text;
}

nlohmann::json json_parameter(const Parameters& parameters, const std::string& name) {
  const std::string text = text_parameter(parameters, name);
  if (text.empty()) return nullptr;
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) throw Error(ErrorCode::recipe, fmt::format("{}: '{:.60}' is no JSON", name, text));
  return json;
}

std::vector<std::string> texts_of(const nlohmann::json& json, const std::string& field) {
  if (json.is_string()) return {json.get<std::string>()};
  std::vector<std::string> texts;
  for (const auto& item : json.is_array() ? json : nlohmann::json::array({nullptr})) {
    if (!item.is_string()) throw Error(ErrorCode::recipe, fmt::format("{}: expected a text or a list of texts", field));
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

void refuse_value(const std::string& field, const std::string& text, const std::vector<std::string>& choices) {
  const std::string near = nearest_name(text, choices);
  throw Error(ErrorCode::recipe, fmt::format("{}: unknown value '{:.60}'{}", field, text,
                                             near.empty() ? fmt::format("; its values are {}", fmt::join(choices, ", "))
                                                          : fmt::format(", did you mean '{}'?", near)));
}

}  // namespace quant::smoothing
