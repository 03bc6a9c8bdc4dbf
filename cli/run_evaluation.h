// `quant run --eval`: the finished checkpoint is measured on a text that was checked before the run began.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "evaluation.h"
#include "plan_request.h"
#include "quant/report.h"

namespace quant::cli {

/// --eval, --eval-seq-len, --eval-windows and --eval-bos.
void add_evaluation_options(CLI::App& command, EvaluationRequest& request);
/// Throws Error{usage} for options of an evaluation without --eval.
void check_evaluation_options(const EvaluationRequest& request);

class RunEvaluation {
 public:
  /// `options`: of the command line; the rest follows from the run.
  RunEvaluation(EvaluationRequest options, const PlanRequest& run, const std::string& output, bool quiet);
  RunEvaluation(const RunEvaluation&) = delete;
  RunEvaluation& operator=(const RunEvaluation&) = delete;

  /// Reads the text and opens the original, so that whatever stands in the way is said before the run. Throws as
  /// read_windows, Tokenizer::open and LanguageModel.
  void prepare(const Registry& registry);
  /// Throws Error{unsupported} for inputs that the plan quantizes in a way that cannot be computed here.
  static void check_schemes(const Plan& plan);
  /// Runs output and original. Throws as prepare, Error{interrupted}.
  EvaluationReport measure(const Registry& registry);
  /// After measure.
  const EvalReport& details() const { return evaluation_.report; }

 private:
  EvaluationRequest request_;
  Evaluation evaluation_;
};

}  // namespace quant::cli
