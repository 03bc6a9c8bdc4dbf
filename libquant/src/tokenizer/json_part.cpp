#include "tokenizer/json_part.h"

#include "quant/error.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

using nlohmann::json;

std::string shown(std::string_view text) {
  constexpr std::size_t kMaxShown = 80;
  if (text.size() <= kMaxShown) return "'" + std::string(text) + "'";
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return "'" + std::string(text.substr(0, end)) + "...'";
}

JsonPart::JsonPart(const json& value, std::string source, std::string path, int depth)
    : value_(&value), source_(std::move(source)), path_(std::move(path)), depth_(depth) {
  constexpr int kDeepest = 64;
  if (depth > kDeepest) corrupt("is nested too deeply");
}

bool JsonPart::has(const char* key) const {
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

std::optional<JsonPart> JsonPart::find(const char* key) const {
  if (!has(key)) return std::nullopt;
  return JsonPart(*value_->find(key), source_, path_ + "." + key, depth_ + 1);
}

JsonPart JsonPart::at(const char* key) const {
  if (!is_object()) corrupt(std::string("is not an object but ") + value_->type_name());
  auto part = find(key);
  if (!part) corrupt(std::string("has no '") + key + "'");
  return *std::move(part);
}

std::vector<JsonPart> JsonPart::list(const char* key) const { return at(key).elements(); }

std::vector<JsonPart> JsonPart::elements() const {
  if (!value_->is_array()) corrupt(std::string("is not a list but ") + value_->type_name());
  std::vector<JsonPart> parts;
  parts.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    parts.emplace_back((*value_)[i], source_, path_ + "[" + std::to_string(i) + "]", depth_ + 1);
  }
  return parts;
}

std::string JsonPart::as_text() const {
  if (!value_->is_string()) corrupt(std::string("is not a string but ") + value_->type_name());
  return value_->get<std::string>();
}

std::int32_t JsonPart::as_id() const {
  if (!value_->is_number_unsigned()) corrupt("is not a token id");
  const auto id = value_->get<std::uint64_t>();
  if (id >= kIdLimit) corrupt("has the id " + std::to_string(id) + "; ids are below " + std::to_string(kIdLimit));
  return static_cast<std::int32_t>(id);
}

std::string JsonPart::text(const char* key) const { return at(key).as_text(); }

std::string JsonPart::text_or(const char* key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

std::optional<std::string> JsonPart::optional_text(const char* key) const {
  std::string value = text_or(key, "");
  return value.empty() ? std::nullopt : std::optional(std::move(value));
}

bool JsonPart::flag(const char* key) const {
  const JsonPart part = at(key);
  if (!part.value().is_boolean()) part.corrupt(std::string("is not true or false but ") + part.value().type_name());
  return part.value().get<bool>();
}

bool JsonPart::flag_or(const char* key, bool fallback) const { return has(key) ? flag(key) : fallback; }

std::uint64_t JsonPart::whole(const char* key) const {
  const JsonPart part = at(key);
  if (!part.value().is_number_unsigned()) part.corrupt("is not a whole number");
  return part.value().get<std::uint64_t>();
}

std::uint64_t JsonPart::whole_or(const char* key, std::uint64_t fallback) const {
  return has(key) ? whole(key) : fallback;
}

char32_t JsonPart::character(const char* key) const {
  const std::string value = text(key);
  std::size_t at_byte = 0;
  const char32_t c = value.empty() ? 0 : next_code_point(value, at_byte);
  if (value.empty() || at_byte != value.size()) at(key).corrupt("is not one character but " + shown(value));
  return c;
}

void JsonPart::corrupt(const std::string& what) const {
  throw Error(ErrorCode::corrupt_file, place() + " " + what,
              "The file is damaged or was not written by the tokenizers library; fetch it again.", "InvalidTokenizer");
}

void JsonPart::unsupported(const std::string& what) const {
  throw Error(ErrorCode::unsupported, place() + ": this version does not know " + what,
              "Tokenize elsewhere and give the token ids as a .npy or .h5 file.", "UnknownTokenizerPart");
}

}  // namespace quant::tok
