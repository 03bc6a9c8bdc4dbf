// A tokenizer of single characters, and the errors of calls.
#pragma once

#include <filesystem>
#include <string>

#include "quant/calibration_data.h"
#include "quant/error.h"
#include "support/temp_dir.h"

namespace quant::test {

using Sequences = std::vector<std::vector<std::int32_t>>;

/// "a" is 0, "b" is 1, ..., then " ", ":", "\n"; <s> (29) comes before every document.
inline Tokenizer letters() {
  std::string vocab;
  for (int i = 0; i < 26; ++i)
    vocab += "\"" + std::string(1, static_cast<char>('a' + i)) + "\": " + std::to_string(i) + ", ";
  vocab += R"(" ": 26, ":": 27, "\n": 28, "<s>": 29)";
  return Tokenizer::parse(R"({"added_tokens": [], "model": {"type": "BPE", "vocab": {)" + vocab + R"(}, "merges": []},
    "decoder": {"type": "Fuse"},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [29], "tokens": ["<s>"]}}}})",
                          "letters");
}

inline std::filesystem::path golden_file(const std::string& name) {
  return std::filesystem::path(QUANT_SOURCE_DIR) / "tests/calibration/golden" / name;
}

/// The Error that `call` throws; one of code internal if there is none.
template <class Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::internal, "nothing was thrown");
}

}  // namespace quant::test
