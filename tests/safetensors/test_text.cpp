// UTF-8 and names in messages.
#include "containers/io/text.h"
#include "helpers.h"

namespace quant::test {
namespace {

using io::has_control_character;
using io::in_quotes;
using io::is_utf8;

// Encodes without judging: also surrogates and numbers past the end of Unicode.
std::string encode(std::uint32_t code, int length) {
  if (length == 1) return {static_cast<char>(code)};
  std::string text;
  for (int i = length - 1; i > 0; --i) text += static_cast<char>(0x80U | (code >> (6 * (i - 1)) & 0x3FU));
  const unsigned mark = length == 2 ? 0xC0U : length == 3 ? 0xE0U : 0xF0U;
  return static_cast<char>(mark | (code >> (6 * (length - 1)))) + text;
}

TEST_CASE("UTF-8 is exactly what Unicode says, for every code point in every length") {
  std::size_t wrong = 0;
  for (std::uint32_t code = 0; code < 0x200000; ++code) {
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    const int shortest = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int length = shortest; length <= 4; ++length) {
      const bool valid = length == shortest && !surrogate && code <= 0x10FFFF;
      if (is_utf8(encode(code, length)) != valid) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("UTF-8 cut short or with a stray byte is refused at any place") {
  for (std::size_t before = 0; before < 20; ++before) {
    const std::string ascii(before, 'a');
    for (const char* sequence : {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}) {
      const std::string whole = ascii + sequence;
      CHECK(is_utf8(whole + "bcdefghijkl"));
      for (std::size_t size = before + 1; size < whole.size(); ++size) {
        CHECK_FALSE(is_utf8(whole.substr(0, size)));
        CHECK_FALSE(is_utf8(whole.substr(0, size) + "bcdefghijkl"));
      }
    }
    CHECK_FALSE(is_utf8(ascii + "\x80"));
    CHECK_FALSE(is_utf8(ascii + "\xff"));
  }
}

TEST_CASE("control characters are found") {
  for (unsigned code = 0; code < 0x120; ++code) {
    const std::string text = "a" + encode(code, code < 0x80 ? 1 : 2) + "b";
    CHECK(has_control_character(text) == (code < 0x20 || (code >= 0x7F && code <= 0x9F)));
  }
}

TEST_CASE("names in messages are quoted, escaped and cut") {
  CHECK(in_quotes("a.b") == "'a.b'");
  CHECK(in_quotes("a\n\xC2\x9B\x7F"
                  "b") == "'a\\x0a\\xc2\\x9b\\x7fb'");
  CHECK(in_quotes(std::string(160, 'x')) == "'" + std::string(160, 'x') + "'");
  CHECK(in_quotes(std::string(161, 'x')) == "'" + std::string(160, 'x') + "'... (161 bytes)");
  CHECK(in_quotes(std::string(159, 'x') + "\xC3\xA9") == "'" + std::string(159, 'x') + "'... (161 bytes)");
}

}  // namespace
}  // namespace quant::test
