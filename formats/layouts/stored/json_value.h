// JSON from files that nobody vouches for: bounded depth, and every failure an Error that says where.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "quant/checkpoint.h"

namespace quant::stored {

/// Parses JSON text with at most kMaxJsonDepth levels. Throws Error{corrupt_file} naming `what`.
inline constexpr int kMaxJsonDepth = 64;
nlohmann::ordered_json parse_json(std::string_view text, std::string_view what);

/// The model's config.json, to be written again with another quantization_config: an empty object where the model has
/// none. Throws Error{corrupt_file} for text that is no JSON object.
nlohmann::ordered_json config_root(const ModelConfig& model);
/// Such a root as the text of config.json. Throws Error{corrupt_file} for strings that are no UTF-8.
std::string config_text(const nlohmann::ordered_json& root);

/// The model's quantization_config if it is an object whose quant_method (or `method`, as some writers say) is one of
/// `methods`; else null. Never throws quant::Error.
nlohmann::ordered_json method_config(const ModelConfig& model, std::initializer_list<std::string_view> methods);

/// The first of the keys of `config` that is there and not null; null if none is.
const nlohmann::ordered_json* first_of(const nlohmann::ordered_json& config, std::initializer_list<const char*> keys);
/// Throws Error{corrupt_file}: quantization_config.<key> is not <expected>.
[[noreturn]] void fail_key(const std::string& key, std::string_view expected);

}  // namespace quant::stored
