#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "evaluate/eval_loop.h"
#include "quant/error.h"
#include "quant/evaluate.h"

namespace quant {
namespace {

using evaluate::WantedRow;

std::uint64_t code_points(const std::string& text) {
  return static_cast<std::uint64_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

/// All choices of all questions as sequences, in order.
struct Encoded {
  std::vector<std::vector<std::int32_t>> sequences;
  std::vector<WantedRow> rows;           // those whose logits predict a token of a choice
  std::vector<std::uint64_t> first_row;  // of each sequence, and the end
  std::uint64_t cut_prompts = 0;
};

Encoded encode_all(const Tokenizer& tokenizer, std::span<const ChoiceQuestion> questions,
                   const ChoiceOptions& options) {
  Encoded encoded;
  for (std::size_t q = 0; q < questions.size(); ++q) {
    const ChoiceQuestion& question = questions[q];
    bool cut = false;
    for (std::size_t c = 0; c < question.choices.size(); ++c) {
      ChoiceTokens tokens = encode_choice(tokenizer, questions, q, c, options);
      cut = cut || tokens.cut;
      encoded.first_row.push_back(encoded.rows.size());
      const std::uint64_t length = tokens.ids.size();
      for (std::uint64_t t = length - tokens.scored; t < length; ++t) {
        encoded.rows.push_back({encoded.sequences.size(), t - 1});
      }
      encoded.sequences.push_back(std::move(tokens.ids));
    }
    encoded.cut_prompts += cut ? 1 : 0;
  }
  encoded.first_row.push_back(encoded.rows.size());
  return encoded;
}

/// The choice of largest score of each question, the first of equals.
std::vector<std::size_t> choose(std::span<const ChoiceQuestion> questions, std::span<const double> scores) {
  std::vector<std::size_t> chosen;
  std::size_t next = 0;
  for (const ChoiceQuestion& question : questions) {
    const auto first = scores.begin() + static_cast<std::ptrdiff_t>(next);
    const auto last = first + static_cast<std::ptrdiff_t>(question.choices.size());
    chosen.push_back(static_cast<std::size_t>(std::max_element(first, last) - first));
    next += question.choices.size();
  }
  return chosen;
}

Estimate mean_of(std::span<const double> values) {
  return mean_over_windows(values, std::vector<std::uint64_t>(values.size(), 1));
}

std::vector<double> hits(std::span<const ChoiceQuestion> questions, std::span<const std::size_t> chosen) {
  std::vector<double> right;
  for (std::size_t q = 0; q < questions.size(); ++q) right.push_back(chosen[q] == questions[q].answer ? 1 : 0);
  return right;
}

ChoiceScore score(std::span<const ChoiceQuestion> questions, const Encoded& encoded, std::span<const double> nats) {
  std::vector<double> likelihood;
  std::vector<double> normalized;
  std::size_t sequence = 0;
  for (const ChoiceQuestion& question : questions) {
    for (const std::string& choice : question.choices) {
      double sum = 0;
      for (std::uint64_t r = encoded.first_row[sequence]; r < encoded.first_row[sequence + 1]; ++r) sum -= nats[r];
      likelihood.push_back(sum);
      normalized.push_back(sum / static_cast<double>(std::max<std::uint64_t>(1, code_points(choice))));
      ++sequence;
    }
  }
  ChoiceScore result;
  result.chosen = choose(questions, likelihood);
  result.chosen_normalized = choose(questions, normalized);
  result.accuracy = mean_of(hits(questions, result.chosen));
  result.accuracy_normalized = mean_of(hits(questions, result.chosen_normalized));
  return result;
}

Estimate paired(std::span<const ChoiceQuestion> questions, std::span<const std::size_t> model,
                std::span<const std::size_t> base) {
  std::vector<double> difference = hits(questions, model);
  const std::vector<double> of_base = hits(questions, base);
  for (std::size_t q = 0; q < difference.size(); ++q) difference[q] -= of_base[q];
  return mean_of(difference);
}

void check_finite(const LogitModel& model, std::span<const WantedRow> rows, std::span<const double> nats, bool base) {
  for (std::size_t i = 0; i < nats.size(); ++i) {
    if (!std::isfinite(nats[i])) evaluate::throw_not_finite(model, rows[i], base);
  }
}

}  // namespace

ChoiceTokens encode_choice(const Tokenizer& tokenizer, const std::string& prompt, const std::string& choice,
                           bool special, std::uint64_t limit) {
  const std::size_t kept = prompt.find_last_not_of(" \t\n\r\f\v") + 1;  // 0 if there is none
  const std::string context = prompt.substr(0, kept);
  const std::string rest = prompt.substr(kept) + choice;
  ChoiceTokens tokens;
  tokens.ids = tokenizer.encode(context + rest, special);
  std::size_t context_size = context.empty() && !special ? 0 : tokenizer.encode(context, special).size();
  if (context_size == 0) {
    const auto start = tokenizer.bos() ? tokenizer.bos() : tokenizer.eos();
    if (!start) {
      throw Error(ErrorCode::usage, "a question has an empty prompt, and the tokenizer names no <s> to begin with",
                  "give the question a prompt", "EmptyPrompt");
    }
    tokens.ids.insert(tokens.ids.begin(), *start);
    context_size = 1;
  }
  // Tokens may melt across the boundary; one of the choice is scored in any case.
  tokens.scored = tokens.ids.size() > context_size ? tokens.ids.size() - context_size : 1;
  if (tokens.ids.size() < 2) {
    throw Error(ErrorCode::usage, "prompt and choice are a single token together: nothing is predicted",
                "give the question a longer prompt", "NothingToPredict");
  }
  if (limit != 0 && tokens.ids.size() > limit) {
    if (tokens.scored >= limit) {
      throw Error(ErrorCode::usage,
                  fmt::format("a choice has {} tokens, more than the model's {} less one", tokens.scored, limit));
    }
    tokens.ids.erase(tokens.ids.begin(), tokens.ids.end() - static_cast<std::ptrdiff_t>(limit));
    tokens.cut = true;
  }
  return tokens;
}

ChoiceTokens encode_choice(const Tokenizer& tokenizer, std::span<const ChoiceQuestion> questions, std::size_t question,
                           std::size_t choice, const ChoiceOptions& options) {
  const ChoiceQuestion& asked = questions[question];
  try {
    return encode_choice(tokenizer, asked.prompt, asked.choices[choice], options.special, options.limit);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("question {}, choice {}: {}", question + 1, choice + 1, error.what()),
                error.hint(), error.kind());
  }
}

ChoiceResult evaluate_choices(LogitModel& model, LogitModel* base, const Tokenizer& tokenizer,
                              std::span<const ChoiceQuestion> questions, const ChoiceOptions& choice_options,
                              const EvalOptions& options) {
  const Encoded encoded = encode_all(tokenizer, questions, choice_options);
  evaluate::check_sequences(model, base, encoded.sequences);
  std::vector<double> nats(encoded.rows.size());
  std::vector<double> base_nats(base == nullptr ? 0 : encoded.rows.size());
  evaluate::for_each_row(model, base, encoded.sequences, encoded.rows, options,
                         [&](std::uint64_t place, const WantedRow& row, std::span<const float> base_logits,
                             std::span<const float> logits, std::vector<double>&) {
                           const std::int32_t target = encoded.sequences[row.sequence][row.token + 1];
                           nats[place] = token_loss(logits, target);
                           if (!base_logits.empty()) base_nats[place] = token_loss(base_logits, target);
                         });
  if (base != nullptr) check_finite(*base, encoded.rows, base_nats, true);
  check_finite(model, encoded.rows, nats, false);
  ChoiceResult result;
  result.questions = questions.size();
  result.cut_prompts = encoded.cut_prompts;
  for (const ChoiceQuestion& question : questions) {
    result.chance += 1.0 / static_cast<double>(question.choices.size()) / static_cast<double>(questions.size());
  }
  result.model = score(questions, encoded, nats);
  if (base == nullptr) return result;
  result.base = score(questions, encoded, base_nats);
  result.difference = paired(questions, result.model.chosen, result.base->chosen);
  result.difference_normalized = paired(questions, result.model.chosen_normalized, result.base->chosen_normalized);
  return result;
}

}  // namespace quant
