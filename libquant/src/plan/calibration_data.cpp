// The text or the token ids that a calibrated run passes through the model.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "plan/calibration_work.h"
#include "quant/data_files.h"
#include "quant/error.h"
#include "quant/language_model.h"

namespace quant {
namespace {

std::string who_needs_data(const Plan& plan, const CalibrationWork& work) {
  for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
    const ModifierAlgorithm& algorithm = work.algorithms[m];
    const RecipeModifier& modifier = plan.recipe.modifiers[m];
    if (algorithm.transform != nullptr || algorithm.own->needs().any()) {
      return modifier.where.to_string() + ": " + modifier.type;
    }
  }
  for (const RecipeModifier& modifier : plan.recipe.modifiers) {
    if (modifier.kv_cache) return modifier.where.to_string() + ": kv_cache_scheme";
  }
  return "a scheme with static input_activations";
}

void check_data(Plan& plan, const CalibrationWork& work) {
  const ModelProgram& program = work.program;
  std::int32_t largest = 0;
  std::uint64_t longest = 0;
  for (const auto& sequence : work.data.sequences) {
    longest = std::max<std::uint64_t>(longest, sequence.size());
    for (const std::int32_t id : sequence) {
      if (id < 0) {
        plan.problems.push_back(fmt::format("calibration data: {} holds the token id {}", work.data.source, id));
        return;
      }
      largest = std::max(largest, id);
    }
  }
  if (static_cast<std::uint64_t>(largest) >= program.vocabulary) {
    plan.problems.push_back(
        fmt::format("calibration data: {} holds the token id {}, but the model's vocabulary has {} entries; was it "
                    "made with another tokenizer?",
                    work.data.source, largest, program.vocabulary));
  }
  if (program.max_positions != 0 && longest > program.max_positions) {
    plan.problems.push_back(
        fmt::format("calibration data: sequences of {} tokens, but the model has {} positions; "
                    "use --seq-len {}",
                    longest, program.max_positions, program.max_positions));
  }
  const std::uint64_t trained = trained_positions(plan.checkpoint->config());
  if (program.max_positions == 0 && trained != 0 && longest > trained) {
    plan.warnings.push_back(
        fmt::format("calibration data: sequences of {} tokens, but the model was made for {} positions "
                    "(max_position_embeddings); statistics of positions beyond may mislead",
                    longest, trained));
  }
  const std::uint64_t wanted = plan.options.calibration.data.samples;
  if (wanted > work.data.sequences.size()) {
    plan.warnings.push_back(fmt::format("calibration data: {} gives {} sequences, not {}", work.data.source,
                                        work.data.sequences.size(), wanted));
  }
}

// A Gram matrix of fewer tokens than columns is singular: codes then fit the text, and the error on it looks small.
void warn_of_few_tokens(Plan& plan, const CalibrationWork& work) {
  const PlannedLinear* widest = nullptr;
  for (const PlannedLinear& linear : plan.linears) {
    const ModifierAlgorithm& algorithm = work.algorithms[linear.modifier];
    if (algorithm.calibrated == nullptr || !algorithm.own->needs().gram) continue;
    if (widest == nullptr || linear.shape.cols > widest->shape.cols) widest = &linear;
  }
  const std::uint64_t tokens = work.data.tokens();
  if (widest == nullptr || tokens >= widest->shape.cols) return;
  plan.warnings.push_back(
      fmt::format("calibration data: {} tokens for {} inputs ({}); with fewer tokens than inputs weights are fitted to "
                  "the text, not to the model: take several times as many",
                  tokens, widest->shape.cols, widest->shape.module));
}

}  // namespace

namespace plan_detail {

void add_problem(Plan& plan, const std::string& what, const Error& error) {
  plan.problems.push_back(what + error.what() + (error.hint().empty() ? "" : " (" + error.hint() + ")"));
}

bool read_data(Plan& plan, CalibrationWork& work, bool has_program) {
  const CalibrationRequest& request = plan.options.calibration;
  if (request.file.empty()) {
    plan.problems.push_back(who_needs_data(plan, work) +
                            " needs calibration data: give --calibration FILE (text, JSON lines, "
                            "or token ids)");
    return false;
  }
  try {
    std::optional<Tokenizer> tokenizer;
    if (!holds_token_ids(request.file)) {
      tokenizer.emplace(Tokenizer::open(model_directory(plan.checkpoint->location())));
    }
    work.data = read_sequences(request.file, tokenizer ? &*tokenizer : nullptr, request.data);
  } catch (const Error& error) {
    add_problem(plan, "calibration data: ", error);
    plan.input_error = std::make_shared<const Error>(error);
    return false;
  }
  if (has_program) check_data(plan, work);
  warn_of_few_tokens(plan, work);
  return true;
}

std::vector<TokenChunk> divide(const TokenSequences& data, std::uint64_t tokens) {
  std::vector<TokenChunk> chunks;
  for (std::size_t s = 0; s < data.sequences.size(); ++s) {
    const std::uint64_t length = data.sequences[s].size();
    if (chunks.empty() || chunks.back().tokens + length > tokens) chunks.push_back({s, 0, 0});
    chunks.back().count += 1;
    chunks.back().tokens += length;
  }
  return chunks;
}

}  // namespace plan_detail
}  // namespace quant
