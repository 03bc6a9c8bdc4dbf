// How tokenizer.json cuts a text into words.
#pragma once

#include <memory>

#include "tokenizer/json_part.h"
#include "tokenizer/pieces.h"
#include "tokenizer/regex.h"

namespace quant::tok {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces, Matcher& matcher) const = 0;
};

/// Throws Error{unsupported} for a type that this version does not know.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const JsonPart& part);

/// The settings of Metaspace, which is a decoder as well.
struct MetaspaceSettings {
  enum class Prepend { always, first, never };
  char32_t replacement = 0x2581;
  Prepend prepend = Prepend::always;
  bool split = true;
};
MetaspaceSettings read_metaspace(const JsonPart& part);

}  // namespace quant::tok
