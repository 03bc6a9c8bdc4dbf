// Is a recipe's text text at all?
#pragma once

#include <string_view>

#include "mistakes.h"

namespace quant::recipe_yaml {

/// Counts columns in characters. Asked for places in rising order it reads the text only once.
class Columns {
 public:
  explicit Columns(std::string_view text) : text_(text) {}
  /// Column (from 1) of the byte at `offset`.
  int at(std::size_t offset);

 private:
  std::string_view text_;
  std::size_t offset_ = 0;
  int column_ = 1;
};

/// Adds a mistake and returns false if the text is too long, not UTF-8, or has characters that YAML forbids.
bool check_text(std::string_view text, Mistakes& mistakes);

}  // namespace quant::recipe_yaml
