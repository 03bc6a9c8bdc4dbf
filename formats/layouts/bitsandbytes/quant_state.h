// The JSON text that bitsandbytes keeps beside each 4-bit weight.
#pragma once

#include <string>

#include "quant/layout.h"

namespace quant::bitsandbytes {

inline constexpr std::uint64_t kNestedBlock = CodedScales::kBlock;

/// ".weight.quant_state.bitsandbytes__nf4"
std::string state_suffix(Codebook codebook);
/// The text as Python's json.dumps writes it. Nested states hold a number that is not known while a file is planned:
/// they are filled up with blanks to state_bytes.
std::string state_text(const QuantArgs& args, const LinearShape& linear, float nested_offset);
std::uint64_t state_bytes(const QuantArgs& args, const LinearShape& linear);

struct QuantState {
  LinearShape shape;
  QuantArgs args;
  float nested_offset = 0;
};
/// Reads such a text; throws Error{corrupt_file} or Error{unsupported} naming `tensor`.
QuantState parse_state(const std::string& text, const std::string& module, Codebook codebook,
                       const std::string& tensor);

}  // namespace quant::bitsandbytes
