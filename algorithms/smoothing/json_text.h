// JSON that a recipe parameter holds.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "quant/registry.h"

namespace quant::smoothing {

/// The value of a parameter of ParameterSpec::Type::json; null if it was not given. Throws Error{recipe} naming the
/// parameter for text that is no JSON (of C++ callers; the recipe reader writes JSON).
nlohmann::json json_parameter(const Parameters& parameters, const std::string& name);

/// The texts of a list of texts, or of a single text. Throws Error{recipe} that begins with `field`.
std::vector<std::string> texts_of(const nlohmann::json& json, const std::string& field);

/// The text of a parameter; empty if it is absent.
std::string text_parameter(const Parameters& parameters, const std::string& name);

/// Throws Error{recipe}: "<field>: unknown value '<text>', ...".
[[noreturn]] void refuse_value(const std::string& field, const std::string& text,
                               const std::vector<std::string>& choices);

}  // namespace quant::smoothing
