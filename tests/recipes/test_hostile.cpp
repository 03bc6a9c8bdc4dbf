// Text that is no recipe and does not want to be one: an error, quickly, and nothing else.
#include <array>

#include "recipes/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

using Lines = std::vector<std::string>;

namespace {

std::string repeated(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

bool contains(const Lines& lines, const std::string& text) {
  return !lines.empty() && lines[0].find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("deep nesting") {
  for (const std::string open : {"[", "{a: ", "- ", "? "}) {
    INFO(open);
    CHECK_FALSE(mistakes(repeated(open, 100'000)).empty());
    CHECK(contains(mistakes("a: " + repeated("[", 40) + repeated("]", 40)), "nested deeper than 32"));
  }
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  CHECK(contains(mistakes(lines), "nested deeper than 32"));
  CHECK(mistakes("x_stage: " + repeated("[", 31) + repeated("]", 31)) ==
        Lines{"r.yaml:1:10: x_stage: expected a mapping, found a list"});
}

TEST_CASE("alias bombs") {
  std::string lists = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  std::string maps = "a0: &a0 {k: x}\n";
  for (int i = 1; i < 12; ++i) {
    const std::string name = "a" + std::to_string(i);
    const std::string before = "*a" + std::to_string(i - 1);
    lists += name + ": &" + name + " [" + repeated(before + ",", 10) + "]\n";
    maps += name + ": &" + name + " {p: " + before + " , q: " + before + " , <<: " + before + " }\n";
  }
  CHECK(contains(mistakes(lists), "aliases blow the recipe up to more than 100000 values"));
  CHECK_FALSE(mistakes(maps).empty());
}

TEST_CASE("aliases of long texts count more") {
  const std::string text = "a: &a " + std::string(16'000, 'x') + "\nb: [" + repeated("*a , ", 1000) + "]";
  CHECK(contains(mistakes(text), "aliases blow the recipe up"));
}

TEST_CASE("merge keys cannot multiply either") {
  std::string text = "base: &base {";
  for (int i = 0; i < 2000; ++i) text += "k" + std::to_string(i) + ": 1, ";
  text += "}\nlist:\n" + repeated("  - {<<: *base }\n", 2000);
  CHECK(contains(mistakes(text), "aliases blow the recipe up"));
}

TEST_CASE("many values and long values") {
  CHECK(contains(mistakes("a: [" + repeated("x,", 120'000) + "]"), "more than 100000 values"));
  CHECK(contains(mistakes("a: " + std::string(20'000, 'x')), "r.yaml:1:4: a value of 20000 bytes, at most 16384"));
  CHECK(contains(mistakes("a: '" + std::string(20'000, 'x') + "'"), "at most 16384"));
  CHECK(contains(mistakes(std::string(20'000, 'x') + ": 1"), ": not valid YAML"));
  CHECK(contains(mistakes(std::string((1 << 20) + 1, '#')), "r.yaml: the recipe has 1048577 bytes"));
  CHECK(mistakes("#" + std::string((1 << 20) - 1, 'x')) == Lines{"r.yaml: the recipe is empty"});
}

TEST_CASE("a message stays short and on one line") {
  const std::string name = "a\\n" + std::string(500, 'x') + "\\x07";
  const Lines lines = mistakes("\"" + name + "\": 1");
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].size() < 300);
  CHECK(lines[0].find("'a\\nxxx") != std::string::npos);
  std::string many;
  for (int i = 0; i < 500; ++i) many += "k" + std::to_string(i) + ": 1\n";
  const Lines all = mistakes(many);
  REQUIRE(all.size() == 101);
  CHECK(all.back() == "r.yaml: and 400 more mistakes");
  for (int i = 500; i < 5000; ++i) many += "k" + std::to_string(i) + ": 1\n";
  CHECK(mistakes(many).back() == "r.yaml: and 4900 more mistakes");
}

TEST_CASE("bytes that are no text") {
  const std::string nul("a: \0b", 5);
  CHECK(mistakes(nul) == Lines{"r.yaml:1:4: the recipe is not text: control character 0x00"});
  CHECK(mistakes("a: b\nc: \x04") == Lines{"r.yaml:2:4: the recipe is not text: control character 0x04"});
  CHECK(mistakes("a: \x7F") == Lines{"r.yaml:1:4: the recipe is not text: control character 0x7f"});
  const std::array<std::string, 10> broken = {"\x80",
                                              "\xC0\xAF",
                                              "\xC1\xBF",
                                              "\xE0\x80\x80",
                                              "\xED\xA0\x80",
                                              "\xF0\x80\x80\x80",
                                              "\xF4\x90\x80\x80",
                                              "\xF5\x80\x80\x80",
                                              "\xE2\x82",
                                              "\xC3("};
  for (const auto& bytes : broken) {
    const Lines lines = mistakes("é: " + bytes);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].rfind("r.yaml:1:4: the recipe is not UTF-8 text: byte 0x", 0) == 0);
  }
  CHECK(contains(mistakes("\xFF\xFE"
                          "a\0:\0"),
                 "not UTF-8"));
  CHECK(mistakes("\xF4\x8F\xBF\xBF: 1").size() == 1);  // the last character of Unicode is one
}

TEST_CASE("scraps of YAML end in an error of ours") {
  for (const std::string text : {"!2",
                                 "!",
                                 "!<",
                                 "!!",
                                 "%",
                                 "%YAML 3.0\n---",
                                 "%TAG ! x",
                                 "&",
                                 "&a",
                                 "*",
                                 "*a",
                                 ":",
                                 "?",
                                 "-",
                                 ",",
                                 "]",
                                 "}",
                                 "|",
                                 ">",
                                 "|9",
                                 "|-+",
                                 "\"",
                                 "'",
                                 "@",
                                 "`",
                                 "---",
                                 "...",
                                 "--- |",
                                 "? ? ? ?",
                                 ": : :",
                                 "{,}",
                                 "{:}",
                                 "[?]",
                                 "{a,b:}",
                                 "- - - -",
                                 "a: b: c",
                                 "\t",
                                 "a:\tb",
                                 "\"\\x\"",
                                 "\"\\ud800\"",
                                 "\"\\U00110000\"",
                                 "a: &b *b",
                                 "&a &b c",
                                 "<<: x",
                                 "<<: [1]",
                                 "~: 1",
                                 "? [a]\n: 1",
                                 "{[a]: 1}",
                                 "*a : 1",
                                 "&a a: *a",
                                 "#",
                                 "\r",
                                 "\n\n",
                                 "a: |\n\n\n",
                                 "$",
                                 "$$",
                                 "args: {$: 1}",
                                 "args: {'': 1}",
                                 "args: [",
                                 "a_stage: &x {y_modifiers: *x}"}) {
    INFO(text);
    CHECK_FALSE(mistakes(text).empty());
  }
}
