#include "tokenizer/replacement.h"

#include <vector>

#include "tokenizer/pieces.h"

namespace quant::tok {

Pattern read_pattern(const JsonPart& part) {
  Pattern pattern;
  if (part.is_object() && part.has("String")) {
    pattern.text = part.text("String");
    if (pattern.text.empty()) pattern.regex.emplace("", part.place());
  } else if (part.is_object() && part.has("Regex")) {
    pattern.regex.emplace(part.text("Regex"), part.place());
  } else {
    part.unsupported("a pattern that is neither 'String' nor 'Regex'");
  }
  return pattern;
}

Replacement::Replacement(const JsonPart& part)
    : pattern_(read_pattern(part.at("pattern"))), content_(part.text("content")) {}

void Replacement::apply(std::string& text, Matcher& matcher) const {
  if (!pattern_.regex && text.find(pattern_.text) == std::string::npos) return;
  std::vector<Stretch> stretches;
  if (pattern_.regex) {
    find_stretches(*pattern_.regex, text, matcher, stretches);
  } else {
    find_stretches(pattern_.text, text, stretches);
  }
  std::string out;
  out.reserve(text.size());
  for (const Stretch& stretch : stretches) {
    if (stretch.is_match) {
      out.append(content_);
      matcher.check_size(out.size());
    } else {
      out.append(text, stretch.span.begin, stretch.span.end - stretch.span.begin);
    }
  }
  text = std::move(out);
}

}  // namespace quant::tok
