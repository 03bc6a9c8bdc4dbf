// --chat-template: what stands around the messages of a conversation.
#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant::test;

namespace {

// Enough words for a few short sequences.
std::string conversation(bool with_marks) {
  std::string user = "The Martians came from the sky and the people of the town ran to the river. ";
  for (int i = 0; i < 3; ++i) user += user;
  const std::string reply = "Nobody could have believed it in those last years. ";
  if (!with_marks) {
    return R"({"messages": [{"role": "user", "content": ")" + user + R"("}, {"role": "model", "content": ")" + reply +
           "\"}]}\n";
  }
  return R"({"text": "<<)" + user + R"(>>model says )" + reply + "!END\"}\n";
}

constexpr const char* kTemplate =
    R"({"end": "END", "roles": {"user": {"prefix": "<<", "suffix": ">>"}, "*": {"prefix": "{role} says ", "suffix": "!"}}})";

Arguments plan_with(const std::filesystem::path& data, const Arguments& more) {
  Arguments arguments{"plan",        "w4a16_gptq", "--model", example_model(), "--calibration",
                      data.string(), "--seq-len",  "32",      "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

}  // namespace

TEST_CASE("a chat template decides the tokens of conversations", "[chat]") {
  const TempDir dir;
  write_file(dir / "talk.jsonl", conversation(false));
  write_file(dir / "joined.jsonl", conversation(true));
  write_file(dir / "chat.json", kTemplate);
  const auto hash = [&](const char* data, const Arguments& more) {
    return json_of(run_quant(plan_with(dir / data, more))).at("calibration").at("hash").get<std::string>();
  };
  const Arguments chat{"--chat-template", (dir / "chat.json").string()};
  CHECK(hash("talk.jsonl", chat) == hash("joined.jsonl", {}));
  CHECK(hash("talk.jsonl", chat) != hash("talk.jsonl", {}));

  // The same in eval and in the evaluation of a run.
  const auto evaluated = [&](const char* data, const Arguments& more) {
    Arguments arguments{"eval", example_model(), "--text", (dir / data).string(), "--seq-len", "32", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(run_quant(arguments)).at("perplexity");
  };
  const auto direct = evaluated("talk.jsonl", chat);
  CHECK(direct.at("hash") == evaluated("joined.jsonl", {}).at("hash"));
  const Outcome run = run_quant({"run", "w4a16", "--model", example_model(), "--output", (dir / "out").string(),
                                 "--eval", (dir / "talk.jsonl").string(), "--eval-seq-len", "32", "--json",
                                 "--chat-template", (dir / "chat.json").string()});
  INFO(run.err);
  CHECK(json_of(run).at("evaluation").at("perplexity").at("hash") == direct.at("hash"));
}

TEST_CASE("templates that cannot be used are refused", "[chat]") {
  const TempDir dir;
  write_file(dir / "talk.jsonl", conversation(false));
  write_file(dir / "plain.txt", "Some text.");
  write_file(dir / "chat.json", kTemplate);
  write_file(dir / "odd.json", R"({"start": ""})");
  const auto fails = [](const Arguments& arguments, int code, const std::string& part) {
    const Outcome outcome = run_quant(arguments);
    CAPTURE(outcome.err);
    CHECK(outcome.code == code);
    CHECK(has(outcome.err, part));
  };
  const std::string chat = (dir / "chat.json").string();
  fails(plan_with(dir / "talk.jsonl", {"--chat-template", "/no/such/chat.json"}), 6, "/no/such/chat.json");
  fails(plan_with(dir / "talk.jsonl", {"--chat-template", (dir / "odd.json").string()}), 5, "unknown member 'start'");
  fails(plan_with(dir / "plain.txt", {"--chat-template", chat}), 2, "is for conversations");
  write_file(dir / "texts.jsonl", conversation(true));
  fails(plan_with(dir / "texts.jsonl", {"--chat-template", chat}), 2, "texts.jsonl has \"messages\"");
  fails({"plan", "w4a16", "--model", example_model(), "--chat-template", chat}, 2, "is for conversations");
  fails({"eval", example_model(), "--speed", "--chat-template", chat}, 2, "is for conversations");
}
