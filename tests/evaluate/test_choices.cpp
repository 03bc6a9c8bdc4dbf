#include <cmath>

#include "evaluate/fake_model.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant;
using quant::test::FakeModel;
using quant::test::has;
using quant::test::reference_softmax;

namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer opened = Tokenizer::open(std::string(QUANT_SOURCE_DIR) + "/examples/tiny-llama-novels");
  return opened;
}

constexpr std::uint64_t kVocabulary = 4096;

/// ln p(choice | prompt), straight from the definition.
double reference_likelihood(const FakeModel& model, const ChoiceTokens& tokens) {
  std::uint32_t state = 17;
  long double sum = 0;
  for (std::size_t t = 0; t + 1 < tokens.ids.size(); ++t) {
    state = state * 31U + static_cast<std::uint32_t>(tokens.ids[t]);
    if (t + 1 < tokens.ids.size() - tokens.scored) continue;
    sum += std::log(reference_softmax(model.logits_after(state))[static_cast<std::size_t>(tokens.ids[t + 1])]);
  }
  return static_cast<double>(sum);
}

std::string error_text(const std::string& lines) {
  const test::TempDir dir;
  test::write_file(dir / "q.jsonl", lines);
  try {
    read_choices(dir / "q.jsonl");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::corrupt_file);
    return error.what();
  }
  return "no error";
}

const std::vector<ChoiceQuestion> kQuestions{{"The capital of France is", {" Paris", " a small town in Kent"}, 0},
                                             {"Two and two make ", {"five", "four", "fish"}, 1},
                                             {"He drew his", {" sword", " breath", " pension", " map"}, 3},
                                             {"She said:", {" \u00e9t\u00e9", " no"}, 1}};

}  // namespace

TEST_CASE("a choice is what the prompt's tokens leave of prompt and choice together") {
  const ChoiceTokens plain = encode_choice(tokenizer(), "The capital of France is", " Paris", false, 0);
  const auto whole = tokenizer().encode("The capital of France is Paris", false);
  const auto prompt = tokenizer().encode("The capital of France is", false);
  CHECK(plain.ids == whole);
  CHECK(plain.scored == whole.size() - prompt.size());
  CHECK_FALSE(plain.cut);
  // Spaces at the end of the prompt belong to the choice: " four" is one token, " " and "four" are two.
  const ChoiceTokens spaced = encode_choice(tokenizer(), "Two and two make ", "four", false, 0);
  CHECK(spaced.ids == tokenizer().encode("Two and two make four", false));
  CHECK(spaced.scored == encode_choice(tokenizer(), "Two and two make", " four", false, 0).scored);
}

TEST_CASE("a choice without a prompt begins with the tokenizer's first token") {
  const ChoiceTokens tokens = encode_choice(tokenizer(), "", "Once upon a time", false, 0);
  const auto text = tokenizer().encode("Once upon a time", false);
  REQUIRE(tokens.ids.size() == text.size() + 1);
  CHECK(tokens.ids.front() == *tokenizer().bos());
  CHECK(tokens.scored == text.size());
}

TEST_CASE("a prompt that is too long loses its beginning") {
  const std::string prompt = "It was the best of times, it was the worst of times, it was the age of wisdom";
  const ChoiceTokens full = encode_choice(tokenizer(), prompt, " and folly", false, 0);
  const ChoiceTokens cut = encode_choice(tokenizer(), prompt, " and folly", false, 8);
  CHECK(cut.cut);
  CHECK(cut.scored == full.scored);
  CHECK(cut.ids == std::vector<std::int32_t>(full.ids.end() - 8, full.ids.end()));
  CHECK_THROWS_AS(encode_choice(tokenizer(), "It", " was the best of times and the worst", false, 4), Error);
}

TEST_CASE("choices are ranked by log-likelihood, and by log-likelihood over characters") {
  FakeModel model(kVocabulary, 5, 0.5);
  FakeModel base(kVocabulary, 1);
  const ChoiceResult result = evaluate_choices(model, &base, tokenizer(), kQuestions, {}, {});
  CHECK(result.questions == 4);
  CHECK(result.chance == Approx((0.5 + 1.0 / 3 + 0.25 + 0.5) / 4));
  double right = 0;
  double right_normalized = 0;
  for (std::size_t q = 0; q < kQuestions.size(); ++q) {
    std::vector<double> scores;
    std::vector<double> normalized;
    for (const std::string& choice : kQuestions[q].choices) {
      const ChoiceTokens tokens = encode_choice(tokenizer(), kQuestions[q].prompt, choice, false, 0);
      scores.push_back(reference_likelihood(model, tokens));
      const double characters = choice == " \u00e9t\u00e9" ? 4 : static_cast<double>(choice.size());
      normalized.push_back(scores.back() / characters);
    }
    const auto best = [](const std::vector<double>& s) {
      return static_cast<std::size_t>(std::max_element(s.begin(), s.end()) - s.begin());
    };
    CHECK(result.model.chosen[q] == best(scores));
    CHECK(result.model.chosen_normalized[q] == best(normalized));
    right += best(scores) == kQuestions[q].answer ? 1 : 0;
    right_normalized += best(normalized) == kQuestions[q].answer ? 1 : 0;
  }
  CHECK(result.model.accuracy.mean == right / 4);
  CHECK(result.model.accuracy_normalized.mean == right_normalized / 4);
  CHECK(result.model.accuracy.error == Approx(std::sqrt(right / 4 * (1 - right / 4) / 3)));
  REQUIRE(result.base);
  CHECK(result.difference.mean == Approx(result.model.accuracy.mean - result.base->accuracy.mean));
}

TEST_CASE("multiple choice does not depend on groups and threads") {
  FakeModel model(kVocabulary, 5, 0.5, 4000);
  const ChoiceResult expected = evaluate_choices(model, nullptr, tokenizer(), kQuestions, {}, {.threads = 1});
  FakeModel small(kVocabulary, 5, 0.5, 1);
  const ChoiceResult result = evaluate_choices(small, nullptr, tokenizer(), kQuestions, {}, {.threads = 3});
  CHECK(result.model.chosen == expected.model.chosen);
  CHECK(result.model.chosen_normalized == expected.model.chosen_normalized);
}

TEST_CASE("questions are read from JSON lines") {
  const test::TempDir dir;
  test::write_file(dir / "q.jsonl",
                   "{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 1}\n\n"
                   "{\"prompt\": \"\", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": \"z\", \"source\": 7}\r\n");
  const auto questions = read_choices(dir / "q.jsonl");
  REQUIRE(questions.size() == 2);
  CHECK(questions[0].prompt == "a");
  CHECK(questions[0].choices == std::vector<std::string>{"b", "c"});
  CHECK(questions[0].answer == 1);
  CHECK(questions[1].answer == 2);
}

TEST_CASE("bad questions are refused with file and line") {
  const std::string good = "{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 1}\n";
  CHECK(has(error_text(good + "{\"prompt\""), "q.jsonl, line 2: not a JSON object"));
  CHECK(has(error_text("[1]"), "line 1: not a JSON object"));
  CHECK(has(error_text("{\"choices\": [\"b\", \"c\"], \"answer\": 1}"), "'prompt' is missing"));
  CHECK(has(error_text("{\"prompt\": 3, \"choices\": [\"b\", \"c\"], \"answer\": 1}"), "'prompt' is not text"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": 0}"), "at least two"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\", \"\"], \"answer\": 0}"), "a choice is empty"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\", 4], \"answer\": 0}"), "a choice is not text"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}"), "no index below 2"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": -1}"), "no index below 2"));
  CHECK(has(error_text("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": \"d\"}"), "none of the choices"));
  CHECK(has(error_text("\n \n"), "holds no question"));
  CHECK_THROWS_AS(read_choices("/nonexistent/q.jsonl"), Error);
}
