// Evaluating a checkpoint on a text, beside its original: what `quant eval` and `quant run --eval` share.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "eval_text.h"
#include "machine_memory.h"
#include "progress.h"
#include "quant/evaluate.h"
#include "quant/logical_tensors.h"
#include "quant/registry.h"
#include "quant/report.h"

namespace quant::cli {

/// What is evaluated, on what, and how.
struct EvaluationRequest {
  std::string model;
  std::string base;
  std::string text;
  std::string chat_template;
  std::uint64_t seq_len = 0;  ///< 0: 2048, or what the model was made for
  std::uint64_t windows = 0;  ///< 0: all
  bool bos = false;
  std::string product = "f32";
  std::string kv_cache;
  bool no_activation_quantization = false;
  std::string memory;
  int threads = 0;
  bool quiet = false;  ///< no progress
};

/// A checkpoint and all that reads it.
struct OpenedModel {
  OpenedModel(const std::string& path, const Registry& registry, const LanguageModelOptions& options);

  std::unique_ptr<Checkpoint> checkpoint;
  LogicalTensors tensors;
  ModelWeights weights;
  LanguageModel model;
  EvaluatedModel description;
};

/// All that one evaluation holds.
struct Evaluation {
  const EvaluationRequest& request;
  std::unique_ptr<OpenedModel> model;
  std::unique_ptr<OpenedModel> base;
  std::optional<Tokenizer> tokenizer;
  EvalReport report;
  MemoryPeak memory;

  LanguageModel* base_model() { return base ? &base->model : nullptr; }
  std::uint64_t positions() const { return trained_positions(model->checkpoint->config()); }
};

/// How the model itself runs; its base runs as its own checkpoint says.
LanguageModelOptions model_options(const EvaluationRequest& request);
LanguageModelOptions base_options(LanguageModelOptions options);

/// Opens model and base. Throws as open_checkpoint and LanguageModel.
void open_models(Evaluation& evaluation, const Registry& registry);
/// The model's tokenizer, or the base's where the model came without one. Throws Error{io} if `needed` and there is
/// none.
std::optional<Tokenizer> open_tokenizer(const EvaluationRequest& request, bool needed);
/// Files of ids can do without a tokenizer.
bool text_needs_tokenizer(const EvaluationRequest& request);

/// Reads the text into the report's windows. `positions`: that the model was made for, 0: not known.
void read_text_windows(Evaluation& evaluation, std::uint64_t positions);
/// Chooses how both models run, and notes the memory in the report.
void fit_models(Evaluation& evaluation, std::uint64_t longest, std::uint64_t tokens);
/// Draws the line, and looks at the memory.
EvalOptions eval_options(Evaluation& evaluation, ProgressLine& line);
/// Perplexity on the windows that were read.
void measure_text(Evaluation& evaluation);

/// The figures as they stand in the report of a run.
EvaluationReport evaluation_report(const EvalReport& report);

}  // namespace quant::cli
