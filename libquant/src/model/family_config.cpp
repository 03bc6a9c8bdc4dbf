#include "model/family_config.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "quant/error.h"

namespace quant {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLargestCount = 0x7fffffff;
constexpr std::size_t kLongestShown = 60;
const char* const kHint = "Correct config.json, or fetch it again.";

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > kLongestShown ? text.substr(0, kLongestShown) + "..." : text;
}

// The members of "a|b" one after another, until `use` returns true.
template <typename Use>
bool any_key(std::string_view keys, const Use& use) {
  while (!keys.empty()) {
    const std::size_t bar = keys.find('|');
    if (use(std::string(keys.substr(0, bar)))) return true;
    keys = bar == std::string_view::npos ? std::string_view() : keys.substr(bar + 1);
  }
  return false;
}

Json parse(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  return json.is_object() ? json : Json();
}

}  // namespace

FamilyConfig::FamilyConfig(const Family& family, const ModelConfig& config, std::string location)
    : location_(std::move(location)), top_(parse(config.text)), defaults_(parse(family.defaults)) {
  if (!top_.is_object()) fail("it is not a JSON object");
  if (!family.defaults.empty() && !defaults_.is_object()) {
    throw Error(ErrorCode::internal, fmt::format("the defaults of '{}' are no JSON object", family.model_type));
  }
  own_ = top_;
  if (!family.nested.empty()) {
    const auto nested = top_.find(std::string(family.nested));
    if (nested != top_.end() && nested->is_object()) own_ = *nested;
  }
  check_requirements(family);
}

void FamilyConfig::fail(const std::string& reason) const {
  throw Error(ErrorCode::corrupt_file, fmt::format("The config.json of {} describes no model: {}.", location_, reason),
              kHint, "InvalidConfig");
}

void FamilyConfig::check_requirements(const Family& family) const {
  for (const Requirement& requirement : family.requires_values) {
    const Json* value = find(requirement.key);
    if (value == nullptr || *value == Json::parse(requirement.value)) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("{} says {} = {}, and this version runs '{}' with {} only", location_, requirement.key,
                            shown(*value), family.model_type, requirement.value),
                "Data-free recipes need no forward pass and work.", "UnsupportedSetting");
  }
}

const Json* FamilyConfig::find(std::string_view keys) const {
  const Json* found = nullptr;
  for (const Json* object : {&own_, &top_, &defaults_}) {
    // Of the outer object only what Transformers keeps there counts.
    if (object == &top_ && keys != "tie_word_embeddings") continue;
    const bool there = any_key(keys, [&](const std::string& key) {
      const auto at = object->find(key);
      if (!object->is_object() || at == object->end()) return false;
      found = &*at;
      return true;
    });
    if (there) break;
  }
  return found == nullptr || found->is_null() ? nullptr : found;
}

bool FamilyConfig::stated(std::string_view keys) const {
  return any_key(keys, [&](const std::string& key) { return own_.contains(key); });
}

std::uint64_t FamilyConfig::to_count(const Json& value, std::string_view name) const {
  const bool fits = value.is_number_integer() && (value.is_number_unsigned() || value.get<std::int64_t>() > 0) &&
                    value.get<std::uint64_t>() >= 1 && value.get<std::uint64_t>() <= kLargestCount;
  if (!fits) fail(fmt::format("'{}' is {} where a number from 1 to {} belongs", name, shown(value), kLargestCount));
  return value.get<std::uint64_t>();
}

double FamilyConfig::to_positive(const Json& value, std::string_view name) const {
  const double number = value.is_number() ? value.get<double>() : 0.0;
  if (!std::isfinite(static_cast<float>(number)) || !(static_cast<float>(number) > 0)) {
    fail(fmt::format("'{}' is {} where a positive number belongs", name, shown(value)));
  }
  return number;
}

std::uint64_t FamilyConfig::count(std::string_view keys) const {
  const Json* value = find(keys);
  if (value == nullptr) fail(fmt::format("'{}' is missing", keys));
  return to_count(*value, keys);
}

std::optional<std::uint64_t> FamilyConfig::optional_count(std::string_view keys) const {
  const Json* value = find(keys);
  if (value == nullptr) return std::nullopt;
  return to_count(*value, keys);
}

double FamilyConfig::positive(std::string_view keys) const {
  const Json* value = find(keys);
  if (value == nullptr) fail(fmt::format("'{}' is missing", keys));
  return to_positive(*value, keys);
}

std::optional<double> FamilyConfig::optional_positive(std::string_view keys) const {
  const Json* value = find(keys);
  if (value == nullptr) return std::nullopt;
  return to_positive(*value, keys);
}

bool FamilyConfig::flag(std::string_view keys, bool absent) const {
  const Json* value = find(keys);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) fail(fmt::format("'{}' is {} where true or false belongs", keys, shown(*value)));
  return value->get<bool>();
}

std::string FamilyConfig::text(std::string_view keys) const {
  const Json* value = find(keys);
  if (value == nullptr) fail(fmt::format("'{}' is missing", keys));
  if (!value->is_string()) fail(fmt::format("'{}' is {} where a string belongs", keys, shown(*value)));
  return value->get<std::string>();
}

std::uint64_t FamilyConfig::count_in(const Json& object, const char* key, std::string_view where) const {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null()) fail(fmt::format("'{}' is missing in '{}'", key, where));
  return to_count(*at, fmt::format("{}.{}", where, key));
}

double FamilyConfig::positive_in(const Json& object, const char* key, std::string_view where) const {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null()) fail(fmt::format("'{}' is missing in '{}'", key, where));
  return to_positive(*at, fmt::format("{}.{}", where, key));
}

}  // namespace quant
