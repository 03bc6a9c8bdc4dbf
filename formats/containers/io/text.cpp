#include "containers/io/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quant::io {
namespace {

constexpr std::size_t kMaxQuotedBytes = 160;

bool is_continuation(unsigned char byte) { return (byte & 0xC0U) == 0x80U; }

// Length of the well-formed sequence at the start of `text`, 0 if there is none (The Unicode Standard, table 3-7).
std::size_t sequence_length(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  unsigned char low = 0x80;  // bounds of the second byte
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;   // overlong
  if (lead == 0xED) high = 0x9F;  // surrogates
  if (lead == 0xF0) low = 0x90;   // overlong
  if (lead == 0xF4) high = 0x8F;  // past U+10FFFF
  if (at(1) < low || at(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (!is_continuation(at(i))) return 0;
  }
  return length;
}

// Headers are nearly all ASCII: skip it eight bytes at a time.
std::size_t skip_ascii(std::string_view text, std::size_t from) {
  while (text.size() - from >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + from, sizeof word);
    if ((word & 0x8080808080808080U) != 0) break;
    from += 8;
  }
  return from;
}

bool is_control(std::string_view text, std::size_t i) {
  const auto byte = static_cast<unsigned char>(text[i]);
  if (byte < 0x20 || byte == 0x7F) return true;
  // C1 controls U+0080 to U+009F are C2 80 to C2 9F.
  return byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
}

}  // namespace

bool is_utf8(std::string_view text) {
  std::size_t i = skip_ascii(text, 0);
  while (i < text.size()) {
    const std::size_t length = sequence_length(text.substr(i));
    if (length == 0) return false;
    i = skip_ascii(text, i + length);
  }
  return true;
}

std::optional<std::string> json_objection(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) return "it starts with a byte order mark";
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
    return fmt::format("byte {} of the text is NUL", at);
  }
  return std::nullopt;
}

bool has_control_character(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_control(text, i)) return true;
  }
  return false;
}

std::string in_quotes(std::string_view text) {
  std::size_t end = std::min(text.size(), kMaxQuotedBytes);
  while (end < text.size() && end > 0 && is_continuation(static_cast<unsigned char>(text[end]))) --end;
  std::string result = "'";
  for (std::size_t i = 0; i < end; ++i) {
    if (!is_control(text, i)) {
      result += text[i];
      continue;
    }
    result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
    if (static_cast<unsigned char>(text[i]) == 0xC2 && i + 1 < end) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    }
  }
  result += '\'';
  if (end < text.size()) result += fmt::format("... ({} bytes)", text.size());
  return result;
}

}  // namespace quant::io
