// Splitting, added tokens and decoders: what the golden texts do not reach. Expected values by the reference's rules.
#include "support/catch.h"
#include "tokenizer/support.h"

using quant::test::bpe_model;
using quant::test::Ids;
using quant::test::json;
using quant::test::make;
using quant::test::pieces;
using quant::test::tokenizer_json;

namespace {

using Texts = std::vector<std::string>;

// Every piece that the pre-tokenizer makes is a token of its own: WordLevel with all pieces in its vocab.
Texts split(const json& pre_tokenizer, const std::string& text, const Texts& expected) {
  json vocab = {{"<unk>", 0}};
  for (const std::string& piece : expected) vocab.emplace(piece, vocab.size());
  json document = tokenizer_json({{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "<unk>"}});
  document["pre_tokenizer"] = pre_tokenizer;
  return pieces(document, text);
}

json split_on(const char* behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}};
}

void check_split(const json& pre_tokenizer, const std::string& text, const Texts& expected) {
  CHECK(split(pre_tokenizer, text, expected) == expected);
}

}  // namespace

TEST_CASE("what becomes of the matches of a split") {
  // The example of the reference's documentation of SplitDelimiterBehavior.
  const std::string text = "the-final--countdown";
  check_split(split_on("Removed"), text, {"the", "final", "countdown"});
  check_split(split_on("Isolated"), text, {"the", "-", "final", "-", "-", "countdown"});
  check_split(split_on("MergedWithPrevious"), text, {"the-", "final-", "-", "countdown"});
  check_split(split_on("MergedWithNext"), text, {"the", "-final", "-", "-countdown"});
  check_split(split_on("Contiguous"), text, {"the", "-", "final", "--", "countdown"});
  check_split(split_on("Removed", true), text, {"-", "-", "-"});
}

TEST_CASE("pre-tokenizers that look at characters") {
  check_split({{"type", "Whitespace"}}, "ab_1, c!? \u00e9\n", {"ab_1", ",", "c", "!?", "\u00e9"});
  check_split({{"type", "WhitespaceSplit"}}, " ab,\tc\u3000d ", {"ab,", "c", "d"});
  check_split({{"type", "Punctuation"}}, "a.b\u3002c$", {"a", ".", "b", "\u3002", "c", "$"});
  check_split({{"type", "Digits"}}, "a12b\u0663\u00bd", {"a", "12", "b", "\u0663\u00bd"});
  check_split({{"type", "Digits"}, {"individual_digits", true}}, "a12", {"a", "1", "2"});
  check_split({{"type", "CharDelimiterSplit"}, {"delimiter", "\u00b7"}}, "a\u00b7b", {"a", "b"});
  check_split({{"type", "FixedLength"}, {"length", 2}}, "a\u00e9bcd", {"a\u00e9", "bc", "d"});
  check_split({{"type", "BertPreTokenizer"}}, "it's  ok.", {"it", "'", "s", "ok", "."});
}

TEST_CASE("Metaspace puts its mark before all, the first or no section") {
  json document = tokenizer_json(bpe_model({"\u2581", "a", "b", "<s>"}));
  document["added_tokens"] = {{{"id", 3}, {"content", "<s>"}, {"special", true}}};
  document["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"split", false}};
  const auto encode = [&](const char* scheme, const char* text) {
    document["pre_tokenizer"]["prepend_scheme"] = scheme;
    return make(document).encode(text, false);
  };
  CHECK(encode("always", "a<s>b c") == Ids{0, 1, 3, 0, 2, 0});
  CHECK(encode("first", "a<s>b") == Ids{0, 1, 3, 2});
  CHECK(encode("first", "<s>b") == Ids{3, 2});
  CHECK(encode("never", "a<s>b") == Ids{1, 3, 2});
  CHECK(encode("always", " a") == Ids{0, 1});
  document["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"add_prefix_space", false}};
  CHECK(make(document).encode("a", false) == Ids{1});
}

TEST_CASE("the flags of added tokens") {
  json document = tokenizer_json(bpe_model({" ", "a", "b", "<t>", "<t>a"}));
  json token = {{"id", 3}, {"content", "<t>"}, {"special", false}, {"normalized", false}};
  const auto encode = [&](const std::string& text) {
    document["added_tokens"] = json::array({token});
    return make(document).encode(text, false);
  };
  CHECK(encode("a <t> b") == Ids{1, 0, 3, 0, 2});
  token["lstrip"] = true;
  CHECK(encode("a  <t> b") == Ids{1, 3, 0, 2});
  token["rstrip"] = true;
  CHECK(encode("a  <t> \n<t> b") == Ids{1, 3, 3, 2});
  token["single_word"] = true;
  CHECK(encode("a <t>b<t>") == Ids{1, 0, 2});
  CHECK(encode("<t>") == Ids{3});
  token = {{"id", 3}, {"content", "<T>"}, {"special", false}, {"normalized", true}};
  document["normalizer"] = {{"type", "Lowercase"}};
  CHECK(encode("A<t>b<T>") == Ids{1, 5, 2, 5});  // <T> is no token of the model and gets the next id
}

TEST_CASE("of added tokens that begin alike the longest is found") {
  json document = tokenizer_json(bpe_model({"a", "b"}));
  for (const char* content : {"<a", "<a>", "<a>b", "a>"}) {
    document["added_tokens"].push_back({{"id", 0}, {"content", content}, {"special", true}});
  }
  CHECK(make(document).encode("<a>b<a><ab", false) == Ids{4, 3, 2, 1});
  CHECK(make(document).size() == 6);
  CHECK(make(document).id_of("<a>b") == 4);
  CHECK(!make(document).id_of("zz").has_value());
}

TEST_CASE("post-processors put ids around the text") {
  json document = tokenizer_json(bpe_model({"a", "<s>", "</s>", "x"}));
  document["post_processor"] = {{"type", "RobertaProcessing"}, {"sep", {"</s>", 2}}, {"cls", {"<s>", 1}}};
  CHECK(make(document).encode("a", true) == Ids{1, 0, 2});
  CHECK(make(document).encode("", true) == Ids{1, 2});
  CHECK(make(document).encode("a", false) == Ids{0});
  const json around = {{"type", "TemplateProcessing"},
                       {"single", {{{"SpecialToken", {{"id", "both"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                       {"special_tokens", {{"both", {{"id", "both"}, {"ids", {1, 3}}}}}}};
  document["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, around, around}}};
  CHECK(make(document).encode("a", true) == Ids{1, 3, 1, 3, 0});
}

TEST_CASE("decoders") {
  json document =
      tokenizer_json(bpe_model({"a", "\u2581b", "<0xE2>", "<0x82>", "<0xAC>", "c##", "##c", "x</w>", ".", "n't"}));
  const auto decode = [&](const json& decoder, const Ids& ids) {
    document["decoder"] = decoder;
    return make(document).decode(ids);
  };
  CHECK(decode(nullptr, {0, 1}) == "a \u2581b");
  CHECK(decode({{"type", "Metaspace"}, {"replacement", "\u2581"}}, {1, 0, 1}) == "ba b");
  CHECK(decode({{"type", "ByteFallback"}}, {0, 2, 3, 4, 0}) == "a\u20aca");
  CHECK(decode({{"type", "ByteFallback"}}, {2, 3, 0}) == "\ufffd\ufffda");
  CHECK(decode({{"type", "WordPiece"}}, {0, 6, 8, 0, 9}) == "ac. an't");
  CHECK(decode({{"type", "WordPiece"}, {"cleanup", false}}, {0, 8}) == "a .");
  CHECK(decode({{"type", "BPEDecoder"}}, {7, 0, 7}) == "x ax");
  CHECK(decode({{"type", "Strip"}, {"content", "a"}, {"start", 1}, {"stop", 9}}, {0, 8}) == ".");
  CHECK(decode({{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}}, {1}) == " b");
  CHECK(make(document).decode(Ids{0, 77, -1, 0}) == "aa");  // unknown ids are left out
}

TEST_CASE("special tokens are left out of decoded text on request") {
  json document = tokenizer_json(bpe_model({"a"}));
  document["added_tokens"] = {{{"id", 1}, {"content", "<s>"}, {"special", true}},
                              {{"id", 2}, {"content", "<n>"}, {"special", false}}};
  const auto tokenizer = make(document);
  CHECK(tokenizer.decode(Ids{1, 0, 2}, true) == "a<n>");
  CHECK(tokenizer.decode(Ids{1, 0, 2}, false) == "<s>a<n>");
}
