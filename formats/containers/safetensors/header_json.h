// The JSON text of a header, read into entries without judging their offsets.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "containers/safetensors/header.h"

namespace quant::safetensors {

/// One tensor as the header states it: `begin` and `end` count from the start of the data.
struct HeaderEntry {
  TensorInfo info;  ///< name, dtype and shape only
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct HeaderJson {
  Metadata metadata;
  std::vector<HeaderEntry> entries;  ///< in the order of the text
};

/// Reads the JSON text of a header. Throws Error{corrupt_file} of kind InvalidHeaderDeserialization (not JSON, wrong
/// types, missing fields), InvalidName, UnknownField, RankTooLarge or DuplicateKey. Nesting deeper than the format's
/// three levels is refused where it begins, so no depth of input costs stack.
HeaderJson read_header_json(std::string_view text, std::string_view file);

}  // namespace quant::safetensors
