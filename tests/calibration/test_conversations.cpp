#include "calibration/support.h"
#include "support/catch.h"

using namespace quant;  // NOLINT: a test of the library's interface
using test::TempDir;
using test::write_file;

namespace {

std::string text_of(const std::string& line, const ChatTemplate& chat) {
  const TempDir directory;
  write_file(directory / "a.jsonl", line);
  const Tokenizer tokenizer = test::letters();
  CalibrationOptions options;
  options.pack = false;
  options.special = false;
  options.chat = chat;
  const TokenSequences read = read_sequences(directory / "a.jsonl", &tokenizer, options);
  return tokenizer.decode(read.sequences.at(0));
}

ChatTemplate from_file(const std::string& text) {
  const TempDir directory;
  write_file(directory / "chat.json", text);
  return ChatTemplate::read(directory / "chat.json");
}

constexpr const char* kConversation =
    R"({"messages": [{"role": "user", "content": "hi"}, {"role": "model", "content": [{"type": "text", "text": "oh"}, {"type": "text", "text": "no"}]}, {"role": "user", "content": null}]})";

}  // namespace

TEST_CASE("messages are joined with their roles by default") {
  CHECK(text_of(kConversation, {}) == "user: hi\nmodel: ohno\nuser: \n");
}

TEST_CASE("a template says what stands around messages") {
  const ChatTemplate chat = from_file(
      R"({"begin": "go ", "end": "end", "roles": {"user": {"prefix": "u:", "suffix": " "}, "*": {"prefix": "{role}{role}:"}}})");
  CHECK(text_of(kConversation, chat) == "go u:hi modelmodel:ohno\nu: end");
  CHECK(text_of(R"({"messages": []})", from_file(R"({"begin": "x"})")) == "x");
  CHECK(text_of(R"({"text": "a", "messages": 1})", {}) == "a");
}

TEST_CASE("what is wrong with a conversation or a template is named") {
  const auto fails = [](const auto& call, const std::string& part) {
    const Error error = test::error_of(call);
    INFO(error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  };
  fails([] { text_of(R"({"messages": 1})", {}); }, "line 1");
  fails([] { text_of(R"({"messages": [1]})", {}); }, "line 1, message 1");
  fails([] { text_of(R"({"messages": [{"role": "user"}]})", {}); }, "message 1: has no 'content'");
  fails([] { text_of(R"({"messages": [{"content": "user"}]})", {}); }, "message 1: has no 'role'");
  fails([] { text_of(R"({"messages": [{"role": "a", "content": [{"type": "image"}]}]})", {}); }, "no text");
  fails([] { text_of(R"({"messages": [{"role": "a", "content": 3}]})", {}); }, "neither text nor");
  fails([] { from_file("{"); }, "chat.json");
  fails([] { from_file("[]"); }, "not an object");
  fails([] { from_file(R"({"start": ""})"); }, "unknown member 'start'");
  fails([] { from_file(R"({"begin": 1})"); }, "'begin'");
  fails([] { from_file(R"({"roles": []})"); }, "'roles'");
  fails([] { from_file(R"({"roles": {"user": {"pre": ""}}})"); }, "role 'user': has the unknown member 'pre'");
  CHECK(test::error_of([] { ChatTemplate::read("/no/such/chat.json"); }).code() == ErrorCode::io);
}
