// Merging, against a plain implementation of the definition; words of any length.
#include <algorithm>
#include <map>
#include <random>

#include "support/catch.h"
#include "tokenizer/support.h"

using quant::test::bpe_model;
using quant::test::Ids;
using quant::test::json;
using quant::test::make;
using quant::test::tokenizer_json;

namespace {

using Pair = std::pair<std::string, std::string>;

// The definition: of all neighbours that may be merged, those of the lowest rank are, the leftmost first.
std::vector<std::string> merge_by_definition(const std::string& text, const std::map<Pair, int>& ranks) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (;;) {
    int best = -1;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && (best < 0 || found->second < best)) {
        best = found->second;
        place = i;
      }
    }
    if (best < 0) return symbols;
    symbols[place] += symbols[place + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

struct Random {
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
  std::map<Pair, int> ranks;
};

Random random_merges(unsigned seed, const std::string& letters, int count) {
  std::minstd_rand random(seed);
  Random made;
  for (const char c : letters) made.tokens.emplace_back(1, c);
  std::vector<Pair> pairs;
  while (static_cast<int>(pairs.size()) < count) {
    const std::string a = made.tokens[random() % made.tokens.size()];
    const std::string b = made.tokens[random() % made.tokens.size()];
    if (a.size() + b.size() > 6 || std::find(pairs.begin(), pairs.end(), Pair(a, b)) != pairs.end()) continue;
    pairs.emplace_back(a, b);
    if (std::find(made.tokens.begin(), made.tokens.end(), a + b) == made.tokens.end()) made.tokens.push_back(a + b);
  }
  // The order in which tokens were made is not the order of ranks.
  std::shuffle(pairs.begin(), pairs.end(), random);
  for (const Pair& pair : pairs) {
    made.ranks[pair] = static_cast<int>(made.merges.size());
    made.merges.push_back(pair.first + " " + pair.second);
  }
  return made;
}

}  // namespace

TEST_CASE("words of every length are merged as the definition says") {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    const Random made = random_merges(seed, seed % 2 == 0 ? "ab" : "abcdef", 40);
    const json document = tokenizer_json(bpe_model(made.tokens, made.merges));
    const auto tokenizer = make(document);
    std::minstd_rand random(seed);
    for (const std::size_t length : {1, 2, 3, 8, 31, 32, 33, 39, 40, 41, 42, 100, 700}) {
      std::string text;
      for (std::size_t i = 0; i < length; ++i) text += made.tokens[random() % 6 % (seed % 2 == 0 ? 2 : 6)];
      std::vector<std::string> got;
      for (const auto id : tokenizer.encode(text, false)) got.push_back(made.tokens[static_cast<std::size_t>(id)]);
      INFO(text);
      CHECK(got == merge_by_definition(text, made.ranks));
      CHECK(tokenizer.encode(text, false) == tokenizer.encode(text, false));  // from the cache
    }
  }
}

TEST_CASE("a word of a megabyte is no problem") {
  const Random made = random_merges(5, "ab", 30);
  const auto tokenizer = make(tokenizer_json(bpe_model(made.tokens, made.merges)));
  for (const char* part : {"a", "ab", "aab"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += part;
    const Ids ids = tokenizer.encode(text, false);
    CHECK(tokenizer.decode(ids) == text);
  }
}

TEST_CASE("a long text without words is cut only where no merge reaches") {
  // The mark of a space is merged with what follows it, and with what comes before it in one token alone.
  const std::vector<std::string> tokens = {"_", "a", "b", "c", "x", "_a", "bc", "x_", "x_a"};
  const std::vector<std::string> merges = {"x _", "_ a", "b c", "x_ a"};
  const std::map<Pair, int> ranks = {{{"x", "_"}, 0}, {{"_", "a"}, 1}, {{"b", "c"}, 2}, {{"x_", "a"}, 3}};
  const auto tokenizer = make(tokenizer_json(bpe_model(tokens, merges)));
  std::minstd_rand random(3);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += tokens[random() % 5];
  std::vector<std::string> got;
  for (const auto id : tokenizer.encode(text, false)) got.push_back(tokens[static_cast<std::size_t>(id)]);
  CHECK(got == merge_by_definition(text, ranks));
}

TEST_CASE("of two merges of one rank the left one comes first") {
  const json document = tokenizer_json(bpe_model({"a", "aa"}, {"a a"}));
  CHECK(make(document).encode("aaa", false) == Ids{1, 0});
  CHECK(make(document).encode(std::string(101, 'a'), false).back() == 0);
}

TEST_CASE("unknown characters: bytes, one token each, or one for the run") {
  json model = bpe_model({"<unk>", "a", "<0xC3>", "<0xA9>"});
  model["unk_token"] = "<unk>";
  CHECK(make(tokenizer_json(model)).encode("a\u00e9\u00e9a", false) == Ids{1, 0, 0, 1});
  model["fuse_unk"] = true;
  CHECK(make(tokenizer_json(model)).encode("a\u00e9\u00e9a", false) == Ids{1, 0, 1});
  const std::string run(200, '?');
  CHECK(make(tokenizer_json(model)).encode("a" + run + "a" + run, false) == Ids{1, 0, 1, 0});
  model["byte_fallback"] = true;
  CHECK(make(tokenizer_json(model)).encode("a\u00e9\u00e9a", false) == Ids{1, 2, 3, 2, 3, 1});
  CHECK(make(tokenizer_json(model)).encode("a\u00ffa", false) == Ids{1, 0, 1});  // <0xBF> is missing
  model["unk_token"] = nullptr;
  CHECK(make(tokenizer_json(model)).encode("a\u00ffa", false) == Ids{1, 1});
}

TEST_CASE("unknown characters that have no token vanish before neighbours are merged") {
  const json document = tokenizer_json(bpe_model({"a", "b", "ab"}, {"a b"}));
  CHECK(make(document).encode("a?b", false) == Ids{2});
  std::string text;
  for (int i = 0; i < 50; ++i) text += "a\u00e9?b";
  CHECK(make(document).encode(text, false) == Ids(50, 2));
}

TEST_CASE("ignore_merges takes whole words that no merge makes") {
  json model = bpe_model({"a", "b", "c", "ab", "abc", std::string(50, 'b')}, {"a b"});
  CHECK(make(tokenizer_json(model)).encode("abc", false) == Ids{3, 2});
  model["ignore_merges"] = true;
  CHECK(make(tokenizer_json(model)).encode("abc", false) == Ids{4});
  CHECK(make(tokenizer_json(model)).encode(std::string(50, 'b'), false) == Ids{5});
  CHECK(make(tokenizer_json(model)).encode("abc" + std::string(50, 'b'), false).size() == 52);
}

TEST_CASE("merges are given as texts or as pairs, with or without a version line") {
  json model = bpe_model({"a", "b", "ab"});
  model["merges"] = json::array({"#version: 0.2", "a b"});
  CHECK(make(tokenizer_json(model)).encode("ab", false) == Ids{2});
  model["merges"] = json::array({json::array({"a", "b"})});
  CHECK(make(tokenizer_json(model)).encode("ab", false) == Ids{2});
}
