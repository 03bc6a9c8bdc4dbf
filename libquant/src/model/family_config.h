// Settings of a model as its family table names them. config.json is untrusted: every value is checked for type and
// range.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "model/family.h"
#include "quant/checkpoint.h"

namespace quant {

class FamilyConfig {
 public:
  /// Throws Error{corrupt_file} for text that is no JSON object, Error{unsupported} for values that the family
  /// excludes.
  FamilyConfig(const Family& family, const ModelConfig& config, std::string location);

  /// The value of "a|b|c": the first name in config.json, else in the family's defaults. Null if absent or null; an
  /// explicit null hides the default.
  const nlohmann::json* find(std::string_view keys) const;
  bool stated(std::string_view keys) const;  ///< in config.json itself

  /// 1 to 2^31 - 1. Errors name the key, the value and the file.
  std::uint64_t count(std::string_view keys) const;
  std::optional<std::uint64_t> optional_count(std::string_view keys) const;
  /// Finite and greater than 0.
  double positive(std::string_view keys) const;
  std::optional<double> optional_positive(std::string_view keys) const;
  bool flag(std::string_view keys, bool absent) const;
  std::string text(std::string_view keys) const;

  /// The same for an object within the configuration (rope_scaling); `where` names it in messages.
  std::uint64_t count_in(const nlohmann::json& object, const char* key, std::string_view where) const;
  double positive_in(const nlohmann::json& object, const char* key, std::string_view where) const;

  [[noreturn]] void fail(const std::string& reason) const;  ///< Error{corrupt_file}
  const std::string& location() const { return location_; }

 private:
  std::uint64_t to_count(const nlohmann::json& value, std::string_view name) const;
  double to_positive(const nlohmann::json& value, std::string_view name) const;
  void check_requirements(const Family& family) const;

  std::string location_;
  nlohmann::json own_;
  nlohmann::json top_;  ///< the outer object where own_ is nested in it
  nlohmann::json defaults_;
};

}  // namespace quant
