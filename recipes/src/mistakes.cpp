#include "mistakes.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "quant/error.h"
#include "quant/names.h"

namespace quant::recipe_yaml {
namespace {

constexpr std::size_t kMostReported = 100;
constexpr std::size_t kLongestSentence = 600;
constexpr std::size_t kLongestQuote = 80;

/// At most `length` bytes, cut between characters.
std::string_view shortened(std::string_view text, std::size_t length) {
  if (text.size() <= length) return text;
  while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0U) == 0x80U) --length;
  return text.substr(0, length);
}

std::string one_line(std::string_view text) {
  std::string result;
  for (const char c : shortened(text, kLongestSentence)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == '\n') {
      result += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  if (text.size() > kLongestSentence) result += "...";
  return result;
}

}  // namespace

void Mistakes::add(Place place, std::string_view sentence) {
  if (settled_.contains({place.line, place.column})) return;
  if (crowded()) {
    ++dropped_;
  } else {
    found_.push_back({place, one_line(sentence)});
  }
}

void Mistakes::throw_if_any() const {
  if (found_.empty()) return;
  std::vector<Mistake> sorted = found_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Mistake& a, const Mistake& b) {
    return std::tie(a.place.line, a.place.column) < std::tie(b.place.line, b.place.column);
  });
  std::string message;
  const std::size_t shown = std::min(sorted.size(), kMostReported);
  for (std::size_t i = 0; i < shown; ++i) {
    if (i > 0) message += '\n';
    message += at(sorted[i].place).to_string() + ": " + sorted[i].sentence;
  }
  if (shown < count()) message += fmt::format("\n{}: and {} more mistakes", file_, count() - shown);
  throw Error(ErrorCode::recipe, message, hint_);
}

std::string in_quotes(std::string_view text) {
  const std::string_view part = shortened(text, kLongestQuote);
  return fmt::format("'{}{}'", part, part.size() < text.size() ? "..." : "");
}

std::string joined(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }

std::string suggestion(std::string_view name, const std::vector<std::string>& candidates, std::string_view known) {
  const std::string nearest = nearest_name(name, candidates);
  if (!nearest.empty()) return fmt::format(", did you mean '{}'?", nearest);
  return fmt::format("; {} are {}", known, joined(candidates));
}

}  // namespace quant::recipe_yaml
