// The alphabet of byte-level tokenizers: each byte as a visible character. Source: GPT-2's encoder.py,
// bytes_to_unicode.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quant::tok {

/// Appends the characters that stand for the bytes of `text`.
void append_byte_level(std::string& out, std::string_view text);
/// The byte that a character stands for.
std::optional<unsigned char> byte_of(char32_t character);

}  // namespace quant::tok
