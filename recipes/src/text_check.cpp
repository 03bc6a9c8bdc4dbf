#include "text_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "yaml_tree.h"

namespace quant::recipe_yaml {
namespace {

/// Bytes of the UTF-8 character at `at`, 0 if it is none (overlong, surrogate, truncated or beyond U+10FFFF).
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[at + i])); };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - at < length) return 0;
  std::uint32_t code = lead & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
    code = code << 6U | (byte(i) & 0x3FU);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return overlong || surrogate || code > 0x10FFFF ? 0 : length;
}

bool is_forbidden(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7F;
}

Place place_at(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  return {1 + static_cast<int>(std::count(before.begin(), before.end(), '\n')), Columns(text).at(offset)};
}

}  // namespace

int Columns::at(std::size_t offset) {
  offset = std::min(offset, text_.size());
  if (offset < offset_) {
    const std::size_t newline = offset == 0 ? std::string_view::npos : text_.rfind('\n', offset - 1);
    offset_ = newline == std::string_view::npos ? 0 : newline + 1;
    column_ = 1;
  }
  for (; offset_ < offset; ++offset_) {
    const auto byte = static_cast<unsigned char>(text_[offset_]);
    if (byte == '\n') {
      column_ = 1;
    } else if ((byte & 0xC0U) != 0x80U) {
      ++column_;
    }
  }
  return column_;
}

bool check_text(std::string_view text, Mistakes& mistakes) {
  if (text.size() > kLongestText) {
    mistakes.add({}, fmt::format("the recipe has {} bytes, at most {} are read", text.size(), kLongestText));
    return false;
  }
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0) {
      mistakes.add(place_at(text, at), fmt::format("the recipe is not UTF-8 text: byte 0x{:02x}",
                                                   static_cast<unsigned>(static_cast<unsigned char>(text[at]))));
      return false;
    }
    if (is_forbidden(text[at])) {
      mistakes.add(place_at(text, at), fmt::format("the recipe is not text: control character 0x{:02x}",
                                                   static_cast<unsigned>(static_cast<unsigned char>(text[at]))));
      return false;
    }
    at += length;
  }
  return true;
}

}  // namespace quant::recipe_yaml
