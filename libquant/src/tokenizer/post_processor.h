// The ids that are put around a text: <s>, [CLS] ... [SEP].
#pragma once

#include <cstdint>
#include <vector>

#include "tokenizer/json_part.h"

namespace quant::tok {

/// What comes before and after the ids of a single text.
struct PostProcessor {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;
};

/// Throws Error{unsupported} for a type that this version does not know.
PostProcessor read_post_processor(const JsonPart& part);

}  // namespace quant::tok
