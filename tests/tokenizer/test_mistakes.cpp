// Files that are wrong, unknown or hostile end in an Error that names the place.
#include "support/catch.h"
#include "tokenizer/support.h"

using quant::Error;
using quant::ErrorCode;
using quant::test::bpe_model;
using quant::test::error_of;
using quant::test::json;
using quant::test::make;
using quant::test::tokenizer_json;

namespace {

void refuse(const json& document, ErrorCode code, const std::string& part) {
  const Error error = error_of([&] { make(document); });
  INFO(error.what());
  CHECK(error.code() == code);
  CHECK(std::string(error.what()).find("test.json") != std::string::npos);
  CHECK(std::string(error.what()).find(part) != std::string::npos);
}

json with(const char* key, const json& value) {
  json document = tokenizer_json(bpe_model({"a", "b", "ab"}, {"a b"}));
  document[key] = value;
  return document;
}

json with_model(const char* key, const json& value) {
  json document = tokenizer_json(bpe_model({"a", "b", "ab"}, {"a b"}));
  document["model"][key] = value;
  return document;
}

}  // namespace

TEST_CASE("parts that this version does not know are named") {
  const auto unsupported = ErrorCode::unsupported;
  refuse(with("normalizer", {{"type", "Precompiled"}}), unsupported,
         "normalizer: this version does not know the normalizer 'Precompiled'");
  refuse(with("pre_tokenizer", {{"type", "UnicodeScripts"}}), unsupported, "'UnicodeScripts'");
  refuse(with("decoder", {{"type", "CTC"}}), unsupported, "'CTC'");
  refuse(with("post_processor", {{"type", "Else"}}), unsupported, "'Else'");
  refuse(with("model", {{"type", "Unigram"}}), unsupported, "'Unigram'");
  refuse(with_model("dropout", 0.1), unsupported, "dropout");
  refuse(with("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}}, {{"type", "New"}}}}}),
         unsupported, "pre_tokenizer.pretokenizers[1]");
  refuse(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}, {"behavior", "Isolated"}}),
         unsupported, "&&");
  refuse(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Odd"}}), unsupported,
         "'Odd'");
  refuse(with("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "odd"}}), unsupported,
         "'odd'");
  refuse(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Glob", "a"}}}, {"behavior", "Isolated"}}),
         unsupported, "pattern");
  const json twice = {{"Sequence", {{"id", "A"}}}};
  refuse(with("post_processor",
              {{"type", "TemplateProcessing"}, {"single", {twice, twice}}, {"special_tokens", json::object()}}),
         unsupported, "single[1]");
}

TEST_CASE("damaged files are refused with the place") {
  const auto corrupt = ErrorCode::corrupt_file;
  CHECK(error_of([] { quant::Tokenizer::parse("{", "test.json"); }).code() == corrupt);
  CHECK(error_of([] { quant::Tokenizer::parse("[]", "test.json"); }).code() == corrupt);
  CHECK(error_of([] { quant::Tokenizer::parse("\xff", "test.json"); }).code() == corrupt);
  refuse(with("model", nullptr), corrupt, "has no 'model'");
  refuse(with_model("vocab", json::array()), corrupt, "tokenizer.model.vocab is not an object");
  refuse(with_model("vocab", {{"a", -1}}), corrupt, "'a'");
  refuse(with_model("vocab", {{"a", 1LL << 40}}), corrupt, "'a'");
  refuse(with_model("vocab", {{"a", "1"}}), corrupt, "'a'");
  refuse(with_model("merges", {"a"}), corrupt, "'a'");
  refuse(with_model("merges", {"a b a"}), corrupt, "'a b a'");
  refuse(with_model("merges", {"a c"}), corrupt, "'c' is not in the vocab");
  refuse(with_model("merges", {"b a"}), corrupt, "'ba' is not in the vocab");
  refuse(with_model("merges", {1}), corrupt, "merges");
  refuse(with_model("merges", 1), corrupt, "merges");
  refuse(with_model("ignore_merges", "yes"), corrupt, "ignore_merges");
  refuse(with("added_tokens", {{{"id", 1}}}), corrupt, "added_tokens[0] has no 'content'");
  refuse(with("pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}), corrupt, "one character");
  refuse(with("pre_tokenizer", {{"type", "FixedLength"}, {"length", 0}}), corrupt, "no length");
  refuse(with("post_processor", {{"type", "BertProcessing"}, {"sep", {"a"}}, {"cls", {"a", 1}}}), corrupt, "sep");
}

TEST_CASE("an unknown token that is not in the vocab matters when it is needed") {
  const auto tokenizer = make(with_model("unk_token", "<unk>"));
  CHECK(tokenizer.encode("ab", false).size() == 1);
  const Error error = error_of([&] { tokenizer.encode("c", false); });
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(std::string(error.what()).find("'<unk>'") != std::string::npos);
  CHECK(tokenizer.encode("ab", false).size() == 1);  // it can be used after the error
}

TEST_CASE("parts that nest without end are refused") {
  // As text: copying or writing so deep a JSON value would itself overflow the stack of a sanitized build.
  const std::string part = R"({"type": "NFC"})";
  std::string text = with("normalizer", "here").dump();
  std::string before;
  std::string behind;
  for (int i = 0; i < 100'000; ++i) {
    before += R"({"type": "Sequence", "normalizers": [)";
    behind += "]}";
  }
  text.replace(text.find("\"here\""), 6, before + part + behind);
  const Error error = error_of([&] { quant::Tokenizer::parse(text, "test.json"); });
  INFO(error.what());
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(std::string(error.what()).find("nested too deeply") != std::string::npos);
}

TEST_CASE("replacements cannot make a text grow without end") {
  json steps = json::array();
  for (int i = 0; i < 60; ++i)
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  const auto tokenizer = make(with("normalizer", {{"type", "Sequence"}, {"normalizers", steps}}));
  const Error error = error_of([&] { tokenizer.encode("aaaa", false); });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(std::string(error.what()).find("64 times") != std::string::npos);
}
