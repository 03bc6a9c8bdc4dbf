// What tokenizer.json does to a text before it is cut.
#pragma once

#include <memory>
#include <string>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"

namespace quant::tok {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Changes valid UTF-8 into valid UTF-8.
  virtual void apply(std::string& text, Matcher& matcher) const = 0;
};

/// Throws Error{unsupported} for a type that this version does not know.
std::unique_ptr<Normalizer> read_normalizer(const JsonPart& part);

}  // namespace quant::tok
