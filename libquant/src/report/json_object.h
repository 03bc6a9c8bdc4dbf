// What the readers of report.json share: objects of which every key must be known, present and of its type.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "quant/error.h"
#include "quant/tensor.h"

namespace quant::report {

using nlohmann::json;

inline constexpr const char* kHint =
    "The file was changed or made by another version; run the job again to write a new report.";

[[noreturn]] inline void fail(const std::string& source, const std::string& message) {
  throw Error(ErrorCode::corrupt_file, source + ": " + message, kHint, "InvalidReport");
}

// A name from the file in an error message, kept short.
inline std::string shown(const std::string& text) {
  constexpr std::size_t kMaxShown = 80;
  if (text.size() <= kMaxShown) return "'" + text + "'";
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return "'" + text.substr(0, end) + "...'";
}

// One object of the document and the key that leads to it. `finish` rejects keys that nobody asked for.
class Object {
 public:
  Object(const json& value, std::string source, std::string path)
      : value_(value), source_(std::move(source)), path_(std::move(path)) {
    if (!value_.is_object()) fail(source_, place("") + " is not an object but " + value_.type_name());
  }

  std::string text(const char* key) {
    const json& value = need(key);
    if (!value.is_string()) wrong(key, "a string", value);
    return value.get<std::string>();
  }

  std::uint64_t whole(const char* key) {
    const json& value = need(key);
    if (!value.is_number_unsigned()) wrong(key, "a whole number of at most 64 bits", value);
    return value.get<std::uint64_t>();
  }

  double real(const char* key) { return to_real(need(key), key); }

  /// A number that must be there and finite.
  double finite(const char* key) {
    const double value = real(key);
    if (!std::isfinite(value)) fail(source_, place(key) + " is no finite number");
    return value;
  }

  /// A null is no value, not infinity.
  bool is_null(const char* key) { return need(key).is_null(); }

  std::vector<std::string> texts(const char* key) {
    std::vector<std::string> list;
    for (const json& value : array(key)) {
      if (!value.is_string()) wrong(key, "a list of strings", value);
      list.push_back(value.get<std::string>());
    }
    return list;
  }

  std::vector<double> reals(const char* key) {
    std::vector<double> list;
    for (const json& value : array(key)) list.push_back(to_real(value, key));
    return list;
  }

  Shape shape(const char* key) {
    constexpr std::size_t kMaxRank = 64;
    Shape sizes;
    for (const json& value : array(key)) {
      if (!value.is_number_unsigned()) wrong(key, "a list of whole numbers", value);
      sizes.push_back(value.get<std::uint64_t>());
    }
    if (sizes.size() > kMaxRank) fail(source_, place(key) + " has " + std::to_string(sizes.size()) + " dimensions");
    return sizes;
  }

  const json& array(const char* key) {
    const json& value = need(key);
    if (!value.is_array()) wrong(key, "a list", value);
    return value;
  }

  Object object(const char* key) { return Object(need(key), source_, join(key)); }

  /// Keys that only some reports have.
  bool has(const char* key) const { return value_.contains(key); }

  // A derived value: it must be there, what it says is computed anew.
  void skip(const char* key) { need(key); }

  void finish() const {
    for (const auto& [key, value] : value_.items()) {
      if (used_.count(key) == 0) fail(source_, place("") + " has the unknown key " + shown(key));
    }
  }

  /// How messages name a key of this object, or with "" the object itself.
  std::string place(const std::string& key) const {
    const std::string path = join(key);
    return path.empty() ? "the document" : "'" + path + "'";
  }

 private:
  std::string join(const std::string& key) const { return path_ + (path_.empty() || key.empty() ? "" : ".") + key; }

  const json& need(const char* key) {
    const auto found = value_.find(key);
    if (found == value_.end()) fail(source_, place(key) + " is missing");
    used_.insert(key);
    return *found;
  }

  [[noreturn]] void wrong(const char* key, const char* expected, const json& found) const {
    fail(source_, place(key) + " is not " + expected + " but has " + found.type_name());
  }

  double to_real(const json& value, const char* key) const {
    if (value.is_null()) return std::numeric_limits<double>::infinity();
    if (!value.is_number()) wrong(key, "a number or null", value);
    return value.get<double>();
  }

  const json& value_;
  std::string source_;
  std::string path_;
  std::set<std::string> used_;
};

}  // namespace quant::report
