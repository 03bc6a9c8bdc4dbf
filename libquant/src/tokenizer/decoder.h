// From the texts of tokens back to a text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"

namespace quant::tok {

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Changes the texts of tokens; joined, they are the text.
  virtual void apply(std::vector<std::string>& tokens, Matcher& matcher) const = 0;
};

/// Throws Error{unsupported} for a type that this version does not know.
std::unique_ptr<Decoder> read_decoder(const JsonPart& part);

}  // namespace quant::tok
