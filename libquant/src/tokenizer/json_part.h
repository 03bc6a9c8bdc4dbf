// Access to a part of tokenizer.json that names the part in every error.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant::tok {

class JsonPart {
 public:
  /// `path` is what messages call the part: "model", "pre_tokenizer.pretokenizers[1]".
  JsonPart(const nlohmann::json& value, std::string source, std::string path, int depth = 0);

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  /// "file: part", to begin a message with.
  std::string place() const { return source_ + ": " + path_; }

  bool is_object() const { return value_->is_object(); }
  bool has(const char* key) const;  ///< there and not null
  JsonPart at(const char* key) const;
  std::optional<JsonPart> find(const char* key) const;
  std::vector<JsonPart> list(const char* key) const;
  std::vector<JsonPart> elements() const;

  std::string type() const { return text("type"); }
  std::string text(const char* key) const;
  std::string text_or(const char* key, const std::string& fallback) const;
  std::optional<std::string> optional_text(const char* key) const;  ///< nothing for null and ""
  bool flag(const char* key) const;
  bool flag_or(const char* key, bool fallback) const;
  std::uint64_t whole(const char* key) const;
  std::uint64_t whole_or(const char* key, std::uint64_t fallback) const;
  char32_t character(const char* key) const;  ///< a text of one code point

  std::string as_text() const;
  std::int32_t as_id() const;

  [[noreturn]] void corrupt(const std::string& what) const;
  /// Names a type, value or feature that this version does not know.
  [[noreturn]] void unsupported(const std::string& what) const;

 private:
  const nlohmann::json* value_;
  std::string source_;
  std::string path_;
  int depth_;  // parts of parts nest so deep at most that recursion over them is safe
};

/// Token ids are smaller than this.
inline constexpr std::uint64_t kIdLimit = 1 << 30;

/// Text from a file as it appears in a message: quoted and short.
std::string shown(std::string_view text);

}  // namespace quant::tok
