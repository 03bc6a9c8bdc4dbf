// "Replace", which is both a normalizer and a decoder.
#pragma once

#include <optional>
#include <string>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"

namespace quant::tok {

/// A pattern of tokenizer.json: {"String": ...} or {"Regex": ...}.
struct Pattern {
  std::string text;
  std::optional<Regex> regex;  ///< for {"Regex"} and the empty string
};
Pattern read_pattern(const JsonPart& part);

class Replacement {
 public:
  explicit Replacement(const JsonPart& part);
  /// Puts the content in the place of every match; it is taken literally ("$1" too).
  void apply(std::string& text, Matcher& matcher) const;

 private:
  Pattern pattern_;
  std::string content_;
};

}  // namespace quant::tok
