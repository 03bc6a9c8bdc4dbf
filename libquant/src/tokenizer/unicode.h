// UTF-8, properties of characters, and the Unicode normalization forms.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quant::tok {

/// The code point at `at` of valid UTF-8; moves `at` behind it.
char32_t next_code_point(std::string_view text, std::size_t& at);
void append_utf8(std::string& out, char32_t code_point);
std::string to_utf8(char32_t code_point);
std::size_t count_code_points(std::string_view text);  ///< of valid UTF-8

/// True for UTF-8 as RFC 3629 defines it: no surrogates, no overlong forms.
bool is_valid_utf8(std::string_view text);
/// Each maximal ill-formed part becomes one U+FFFD, as Python's errors="replace" and the Unicode Standard (3.9) have
/// it.
std::string replace_invalid_utf8(std::string_view text);

bool is_white_space(char32_t c);                  ///< property White_Space
bool is_numeric(char32_t c);                      ///< category N
bool is_punctuation(char32_t c);                  ///< ASCII punctuation (with the symbols) or category P
bool is_mark(char32_t c);                         ///< category M
bool is_nonspacing_mark(char32_t c);              ///< category Mn
bool is_other(char32_t c);                        ///< categories Cc, Cf, Co, Cs
bool is_word(char32_t c);                         ///< \w of UTS 18: Alphabetic, M, Nd, Pc, Join_Control
void append_lower(std::string& out, char32_t c);  ///< full lowercase mapping

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// Time grows as n log n however many combining marks follow each other.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace quant::tok
