// Oniguruma's expressions, as PCRE2 runs their translations.
#include "support/catch.h"
#include "tokenizer/pieces.h"
#include "tokenizer/regex.h"
#include "tokenizer/support.h"

using quant::tok::Matcher;
using quant::tok::Regex;
using quant::tok::Stretch;

namespace {

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  Matcher matcher;
  std::vector<Stretch> stretches;
  find_stretches(Regex(pattern, "test"), text, matcher, stretches);
  std::vector<std::string> found;
  for (const Stretch& stretch : stretches) {
    if (stretch.is_match) found.push_back(text.substr(stretch.span.begin, stretch.span.end - stretch.span.begin));
  }
  return found;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("white space is the Unicode property, without U+180E") {
  CHECK(matches(R"(\s)", "a b\u00a0\u3000\u180e\u200b\u0085") == Texts{" ", "\u00a0", "\u3000", "\u0085"});
  CHECK(matches(R"(\S+)", "a b\u3000c") == Texts{"a", "b", "c"});
  CHECK(matches(R"([^\s]+)", "a b\u3000c") == Texts{"a", "b", "c"});
  CHECK(matches(R"([\S]+)", "a b\u3000c") == Texts{"a", "b", "c"});
}

TEST_CASE("words have marks, connectors and, outside of classes, Latin-1 fractions") {
  CHECK(matches(R"(\w+)", "a\u0301_b-\u00bd") == Texts{"a\u0301_b", "\u00bd"});
  CHECK(matches(R"([\w]+)", "a\u0301_b-\u00bd") == Texts{"a\u0301_b"});
  CHECK(matches(R"(\W)", "a-b") == Texts{"-"});
  CHECK(matches(R"(\b.)", "ab cd") == Texts{"a", " ", "c"});
  CHECK(matches(R"(\Bb)", "ab b") == Texts{"b"});
}

TEST_CASE("lines, dots and hexadecimal digits") {
  CHECK(matches("^a", "a\na") == Texts{"a", "a"});
  CHECK(matches("a$", "a\na") == Texts{"a", "a"});
  CHECK(matches("a.", "a\nab") == Texts{"ab"});
  CHECK(matches("(?m:a.)", "a\nab") == Texts{"a\n", "ab"});
  CHECK(matches(R"(\h+)", "xff g") == Texts{"ff"});
  CHECK(matches(R"(\v)", "\x0b\n") == Texts{"\x0b"});
  CHECK(matches(R"(\u00e9|\x{4e2d})", "\u00e9\u4e2d") == Texts{"\u00e9", "\u4e2d"});
}

TEST_CASE("repetition of repetition, and from zero") {
  CHECK(matches("a{2}+", "aaaaa") == Texts{"aaaa"});
  CHECK(matches("(?:ab|c){1,2}+b", "ababcb") == Texts{"ababcb"});
  CHECK(matches("xa{,2}", "xaaa x") == Texts{"xaa", "x"});
  CHECK(matches("a{b", "a{b") == Texts{"a{b"});
  CHECK(matches("a++b", "aab") == Texts{"aab"});
}

TEST_CASE("empty matches do not stop the search, nor follow a match") {
  CHECK(matches("x*", "axxb") == Texts{"", "xx", ""});
  CHECK(matches("", "\u00e9a") == Texts{"", "", ""});
}

TEST_CASE("letters of any case") {
  CHECK(matches("(?i:'s|'LL)", "'S 'll '\u017f") == Texts{"'S", "'ll", "'\u017f"});
  CHECK(matches(R"(\p{Lu}|\p{^L}|\P{N}1)", "aB1c1") == Texts{"B", "1", "c1"});
}

TEST_CASE("what PCRE2 would read otherwise is refused by name") {
  const char* unknown[] = {"[a-z&&[^b]]",     "[a[bc]]", "[[:punct:]]", R"([\W])", R"(\R)",        R"(\X)", R"(\K)",
                           R"(\Qa\E)",        "(?s:a)",  "(?~a)",       "[]a]",    "[a",           "(a",    "a)",
                           R"(\p{Nonsense})", R"(\p{L)", R"(\u12)",     "\\",      "(?x: a # b\n)"};
  for (const char* pattern : unknown) {
    INFO(pattern);
    const auto error = quant::test::error_of([&] { Regex(pattern, "here"); });
    CHECK(error.code() == quant::ErrorCode::unsupported);
    CHECK(std::string(error.what()).find("here") == 0);
  }
}

TEST_CASE("catastrophic backtracking ends with an error") {
  Matcher matcher;
  const Regex regex("(a+)+$", "here");
  const std::string text = std::string(5000, 'a') + "b";
  const auto error = quant::test::error_of([&] { regex.find(text, 0, matcher); });
  CHECK(error.code() == quant::ErrorCode::unsupported);
  CHECK(std::string(error.what()).find("5001 bytes") != std::string::npos);
}

TEST_CASE("a long run is one match") {
  const std::string text(1 << 22, 'a');
  CHECK(matches(R"('s| ?\p{L}+|\s+(?!\S))", text) == Texts{text});
  const std::string spaces(1 << 22, ' ');
  CHECK(matches(R"(\s+(?!\S)|\s+)", spaces + "a").front().size() == spaces.size() - 1);
}
