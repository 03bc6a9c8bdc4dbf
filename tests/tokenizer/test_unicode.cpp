#include "support/catch.h"
#include "tokenizer/unicode.h"

using namespace quant::tok;  // NOLINT: the file tests this namespace

TEST_CASE("ill-formed UTF-8 is replaced as Python replaces it") {
  // bytes.decode("utf-8", errors="replace") in Python 3.11.
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFFz", "a\uFFFDz"},       {"\xE2\x82", "\uFFFD"},
      {"\xE2\x82z", "\uFFFDz"},     {"\xE2z", "\uFFFDz"},
      {"\xC0\x80", "\uFFFD\uFFFD"}, {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x9F\x98z", "\uFFFDz"}, {"\xF0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF5\x80", "\uFFFD\uFFFD"}, {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\x80\xBF", "\uFFFD\uFFFD"}, {"\xE2\xE2\x82\xAC", "\uFFFD\u20AC"},
      {"\U0001F600", "\U0001F600"},
  };
  for (const auto& [bytes, expected] : cases) {
    CHECK(replace_invalid_utf8(bytes) == expected);
    CHECK(is_valid_utf8(bytes) == (bytes == expected));
    CHECK(is_valid_utf8(expected));
  }
}

TEST_CASE("every code point survives encoding and decoding") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string text = to_utf8(c);
    std::size_t at = 0;
    const bool same = next_code_point(text, at) == c && at == text.size() && is_valid_utf8(text);
    if (!same) FAIL(static_cast<std::uint32_t>(c));
  }
  CHECK(count_code_points("a\u00e9\u20ac\U0001F600") == 4);
}

TEST_CASE("normalization forms") {
  // Unicode Standard Annex 15, figures 3 to 6.
  CHECK(normalize("\u212B", NormalForm::nfd) == "A\u030A");
  CHECK(normalize("\u212B", NormalForm::nfc) == "\u00C5");
  CHECK(normalize("\u2126", NormalForm::nfc) == "\u03A9");
  CHECK(normalize("\u1E0B\u0323", NormalForm::nfd) == "d\u0323\u0307");
  CHECK(normalize("\u1E0B\u0323", NormalForm::nfc) == "\u1E0D\u0307");
  CHECK(normalize("q\u0307\u0323", NormalForm::nfc) == "q\u0323\u0307");
  CHECK(normalize("\uFB01", NormalForm::nfc) == "\uFB01");
  CHECK(normalize("\uFB01", NormalForm::nfkd) == "fi");
  CHECK(normalize("2\u2075", NormalForm::nfkc) == "25");
  CHECK(normalize("\u1E9B\u0323", NormalForm::nfkd) == "s\u0323\u0307");
  CHECK(normalize("\u1E9B\u0323", NormalForm::nfkc) == "\u1E69");
  CHECK(normalize("\u1112\u1161\u11AB", NormalForm::nfc) == "\uD55C");
  CHECK(normalize("\uD55C", NormalForm::nfd) == "\u1112\u1161\u11AB");
  CHECK(normalize("plain", NormalForm::nfkc) == "plain");
}

TEST_CASE("a megabyte of combining marks is put in order") {
  std::string marks = "a";
  while (marks.size() < (1 << 20)) marks += "\u0301\u0323";
  const std::string ordered = normalize(marks, NormalForm::nfd);
  REQUIRE(ordered.size() == marks.size());
  CHECK(ordered.substr(0, 5) == "a\u0323\u0323");
  CHECK(normalize(ordered, NormalForm::nfd) == ordered);
}

TEST_CASE("properties of characters") {
  CHECK(is_white_space(U'\u3000'));
  CHECK(!is_white_space(U'\u200B'));
  CHECK(is_numeric(U'\u00BD'));
  CHECK(is_punctuation(U'$'));
  CHECK(!is_punctuation(U'\u20AC'));
  CHECK(is_punctuation(U'\u3002'));
  CHECK(is_mark(U'\u0903'));
  CHECK(!is_nonspacing_mark(U'\u0903'));
  CHECK(is_other(U'\u200B'));
  CHECK(is_word(U'\u24D0'));
  CHECK(!is_word(U'\u00BD'));
  std::string lower;
  for (const char32_t c : std::u32string(U"A\u00C9\u0130\u03A3\u01C5")) append_lower(lower, c);
  CHECK(lower == "a\u00E9i\u0307\u03C3\u01C6");
}
