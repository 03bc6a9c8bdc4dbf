#include "report/html/text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace quant::report {

namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// U+202A..202E and U+2066..2069 in UTF-8: they would let a name rewrite the text around it.
bool turns_direction(std::string_view rest) {
  if (rest.size() < 3 || rest[0] != '\xE2') return false;
  const auto second = static_cast<unsigned char>(rest[1]);
  const auto third = static_cast<unsigned char>(rest[2]);
  return (second == 0x80 && third >= 0xAA && third <= 0xAE) || (second == 0x81 && third >= 0xA6 && third <= 0xA9);
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if (is_control(c))
      out += kReplacement;
    else if (turns_direction(text.substr(i))) {
      out += kReplacement;
      i += 2;
    } else
      out += c;
  }
  return out;
}

std::string breakable(std::string_view escaped) {
  std::string out;
  for (const char c : escaped) {
    out += c;
    if (c == '.' || c == '_') out += "<wbr>";
  }
  return out;
}

std::string format_bytes(double bytes) {
  static constexpr std::array<const char*, 7> kUnits{"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  std::size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  const int digits = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, digits, kUnits[unit]);
}

std::string format_count(std::uint64_t count) {
  std::string digits = std::to_string(count);
  for (std::size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string format_plural(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", format_count(count), noun, count == 1 ? "" : "s");
}

std::string format_bits(double bits) {
  std::string text = format_fixed(bits, 3);
  if (text.back() == '0') text.pop_back();
  return text;
}

std::string format_large(double count) {
  if (count >= 1e9) return fmt::format("{:.3g} billion", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.3g} million", count / 1e6);
  return format_count(static_cast<std::uint64_t>(count));
}

std::string format_db(double db) {
  if (std::isinf(db)) return db > 0 ? "exact" : "none";
  return std::isnan(db) ? "none" : fmt::format("{:.1f}", db);
}

std::string format_small(double value) {
  if (std::isnan(value)) return "none";
  if (std::isinf(value)) return "\xE2\x88\x9E";
  if (value == 0) return "0";
  std::string text = fmt::format("{:.2e}", value);  // "1.09e-02"
  const std::size_t exponent = text.find('e') + 2;
  while (exponent + 1 < text.size() && text[exponent] == '0') text.erase(exponent, 1);
  if (text[exponent - 1] == '+') text.erase(exponent - 1, 1);
  return text;
}

std::string format_fixed(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "none";
}

std::string format_percent(double fraction) {
  const double percent = 100 * fraction;
  if (!std::isfinite(percent)) return "none";
  if (percent == 0) return "0 %";
  if (percent < 0.01) return "<0.01 %";
  return fmt::format("{:.{}f} %", percent, percent >= 99.95 ? 0 : percent >= 9.995 ? 1 : 2);
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown";
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_shape(const Shape& shape) {
  return shape.empty() ? "scalar" : fmt::format("{}", fmt::join(shape, " \xC3\x97 "));
}

}  // namespace quant::report
