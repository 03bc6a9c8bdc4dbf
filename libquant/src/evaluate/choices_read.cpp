#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/evaluate.h"

namespace quant {
namespace {

using Json = nlohmann::json;

// A line is read whole; no question needs more.
constexpr std::size_t kLongestLine = std::size_t{16} << 20;

struct Line {
  const std::filesystem::path& file;
  std::size_t number;

  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(ErrorCode::corrupt_file, fmt::format("{}, line {}: {}", file.string(), number, problem),
                R"(each line is {"prompt": "...", "choices": ["...", "..."], "answer": 0})", "BadChoiceLine");
  }
};

std::string text_of(const Line& line, const Json& value, std::string_view what) {
  if (!value.is_string()) line.fail(fmt::format("{} is not text", what));
  return value.get<std::string>();
}

const Json& member(const Line& line, const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) line.fail(fmt::format("'{}' is missing", key));
  return *found;
}

std::size_t answer_of(const Line& line, const Json& value, const std::vector<std::string>& choices) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() < choices.size()) return value.get<std::size_t>();
  if (!value.is_string()) line.fail(fmt::format("'answer' is no index below {} and no choice", choices.size()));
  const auto text = value.get<std::string>();
  const auto found = std::find(choices.begin(), choices.end(), text);
  if (found == choices.end()) line.fail("'answer' is none of the choices");
  return static_cast<std::size_t>(found - choices.begin());
}

ChoiceQuestion parse_question(const Line& line, const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) line.fail("not a JSON object");
  ChoiceQuestion question;
  question.prompt = text_of(line, member(line, json, "prompt"), "'prompt'");
  const Json& choices = member(line, json, "choices");
  if (!choices.is_array() || choices.size() < 2) line.fail("'choices' is not a list of at least two texts");
  for (const Json& choice : choices) {
    question.choices.push_back(text_of(line, choice, "a choice"));
    if (question.choices.back().empty()) line.fail("a choice is empty");
  }
  question.answer = answer_of(line, member(line, json, "answer"), question.choices);
  return question;
}

}  // namespace

std::vector<ChoiceQuestion> read_choices(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(ErrorCode::io, fmt::format("cannot read {}", file.string()));
  std::vector<ChoiceQuestion> questions;
  std::string text;
  for (std::size_t number = 1; std::getline(in, text); ++number) {
    const Line line{file, number};
    if (text.size() > kLongestLine) line.fail("longer than 16 MiB");
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    questions.push_back(parse_question(line, text));
  }
  if (in.bad()) throw Error(ErrorCode::io, fmt::format("cannot read {}", file.string()));
  if (questions.empty()) throw Error(ErrorCode::corrupt_file, fmt::format("{} holds no question", file.string()));
  return questions;
}

}  // namespace quant
