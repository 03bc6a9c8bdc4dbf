// How good a language model is: perplexity, divergence from another model, multiple choice, speed.
// docs/evaluation.md gives protocol and formulas.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/calibration_data.h"
#include "quant/eval_result.h"
#include "quant/language_model.h"
#include "quant/tokenizer.h"

namespace quant {

// --- statistics of single predictions -------------------------------------------------------------------------------

/// -ln softmax(logits)[target], in float64. NaN or infinite if a logit is NaN or +infinite.
double token_loss(std::span<const float> logits, std::int32_t target);

/// One prediction of two models over the same vocabulary.
struct PredictionPair {
  double nats = 0;        ///< token_loss of the model
  double base_nats = 0;   ///< token_loss of the base
  double divergence = 0;  ///< KL(base || model) = sum p_base (ln p_base - ln p_model), in nats; exact, not negative
  bool same_top = false;  ///< both find the same token likeliest (the first of equals)
  double top5 = 0;        ///< share of the base's five likeliest tokens that are among the model's five
};
/// base.size() == model.size(). `scratch` is for reuse between calls.
PredictionPair compare_predictions(std::span<const float> base, std::span<const float> model, std::int32_t target,
                                   std::vector<double>& scratch);

/// sum(totals) / sum(counts), with the standard error of that ratio over independent windows. For windows of equal
/// counts it is the sample deviation of the window means over the square root of their number.
Estimate mean_over_windows(std::span<const double> totals, std::span<const std::uint64_t> counts);

// --- perplexity and divergence --------------------------------------------------------------------------------------

struct EvalOptions {
  int threads = 0;  ///< 0: all processors
  /// Called at most ten times a second: tokens done (by share of the work) and to do.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
  const std::atomic<bool>* stop = nullptr;  ///< set to true: ends with Error{interrupted}
};

/// Perplexity of `model` on token sequences, each of which stands alone (positions begin at 0, nothing before it is
/// seen): every token but the first is predicted. `base`: null, or the model to compare with on the same windows, over
/// the whole vocabulary. The result does not depend on threads or memory budgets. Throws Error{usage} for no sequences,
/// sequences of fewer than 2 tokens, ids outside the vocabulary and vocabularies that differ; Error{numerical} naming
/// the place if logits are not finite.
EvalResult evaluate_perplexity(LogitModel& model, LogitModel* base,
                               std::span<const std::vector<std::int32_t>> sequences, const EvalOptions& options);

struct WindowOptions {
  std::uint64_t length = 2048;        ///< tokens of each window, the one in `first` included
  std::uint64_t count = 0;            ///< windows to take; 0: all
  std::optional<std::int32_t> first;  ///< a token that begins each window (<s>)
  ChatTemplate chat = {};             ///< for "messages"
};
/// A text in windows that do not overlap; the rest that fills none is dropped.
struct EvalWindows {
  std::vector<std::vector<std::int32_t>> windows;  ///< all of the same length
  std::string source, hash;                        ///< of TokenSequences
  std::uint64_t tokens = 0;                        ///< of the text: WindowOptions::first not counted
  std::uint64_t bytes = 0;                         ///< of those tokens' text, decoded; 0 without a tokenizer

  /// `nats` per token as bits per byte of the text; NaN without a tokenizer.
  double bits_per_byte(double nats) const;
};
/// Reads any file of read_sequences; documents are joined, no special tokens are added but `first`. Throws as
/// read_sequences; Error{usage} for a length below 2 and a text that fills no window.
EvalWindows read_windows(const std::filesystem::path& file, const Tokenizer* tokenizer, const WindowOptions& options);

// --- multiple choice ------------------------------------------------------------------------------------------------

struct ChoiceQuestion {
  std::string prompt;
  std::vector<std::string> choices;  ///< follow the prompt as they are; at least two, none empty
  std::size_t answer = 0;            ///< index into choices
};
/// JSON lines {"prompt": text, "choices": [text, ...], "answer": index or the text of a choice}. Throws Error{io}, and
/// Error{corrupt_file} naming file and line.
std::vector<ChoiceQuestion> read_choices(const std::filesystem::path& file);

/// A prompt and one choice as tokens; the last `scored` ones are the choice.
struct ChoiceTokens {
  std::vector<std::int32_t> ids;
  std::uint64_t scored = 0;
  bool cut = false;  ///< the prompt was too long; its beginning is left out
};
/// The tokens of prompt + choice, of which the first ones, as many as the prompt alone has, count as the prompt; spaces
/// at the end of the prompt go to the choice (as in lm-evaluation-harness). `limit`: tokens at most, 0: no limit.
/// `special`: with what the tokenizer's post-processor adds. A prompt without tokens gets the tokenizer's <s> or </s>.
ChoiceTokens encode_choice(const Tokenizer& tokenizer, const std::string& prompt, const std::string& choice,
                           bool special, std::uint64_t limit);

struct ChoiceScore {
  Estimate accuracy;                           ///< share of questions whose answer has the largest log-likelihood
  Estimate accuracy_normalized;                ///< log-likelihood over the choice's length in characters (code points)
  std::vector<std::size_t> chosen;             ///< per question
  std::vector<std::size_t> chosen_normalized;  ///< per question
};
struct ChoiceResult {
  std::uint64_t questions = 0;
  std::uint64_t cut_prompts = 0;  ///< questions with a prompt longer than the model
  double chance = 0;              ///< accuracy of guessing
  ChoiceScore model;
  std::optional<ChoiceScore> base;
  Estimate difference;  ///< accuracy of model less base, paired
  Estimate difference_normalized;
};
struct ChoiceOptions {
  bool special = false;     ///< encode_choice
  std::uint64_t limit = 0;  ///< encode_choice
};
/// encode_choice of choice `choice` of question `question`; errors name both, counted from 1.
ChoiceTokens encode_choice(const Tokenizer& tokenizer, std::span<const ChoiceQuestion> questions, std::size_t question,
                           std::size_t choice, const ChoiceOptions& options);
/// Throws as evaluate_perplexity.
ChoiceResult evaluate_choices(LogitModel& model, LogitModel* base, const Tokenizer& tokenizer,
                              std::span<const ChoiceQuestion> questions, const ChoiceOptions& choice_options,
                              const EvalOptions& options);

// --- speed ----------------------------------------------------------------------------------------------------------

struct SpeedOptions {
  std::uint64_t new_tokens = 32;  ///< decoded after the prompt
  int repeats = 3;                ///< the median counts
};
struct SpeedResult {
  std::uint64_t prompt_tokens = 0;
  std::uint64_t new_tokens = 0;
  double first_token_seconds = 0;  ///< prompt in, first new token out, weights prepared before
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;  ///< of the tokens after the first
};
/// Greedy decoding with a cache. All weights must stay in memory (Error{usage} else).
SpeedResult measure_speed(LanguageModel& model, std::span<const std::int32_t> prompt, const SpeedOptions& options);

}  // namespace quant
