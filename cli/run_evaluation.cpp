#include "run_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "quant/error.h"

namespace quant::cli {
namespace {

EvaluationRequest complete(EvaluationRequest request, const PlanRequest& run, const std::string& output, bool quiet) {
  request.model = output;
  request.base = run.model;
  request.chat_template = run.chat_template;
  request.memory = run.memory;
  request.threads = run.threads;
  request.quiet = quiet;
  return request;
}

// Advice is given in the options of `quant eval`, which have other names here.
std::string translated(std::string text) {
  for (const char* option : {"--seq-len", "--bos"}) {
    for (std::size_t at = text.find(option); at != std::string::npos; at = text.find(option, at + 7)) {
      text.replace(at, 2, "--eval-");
    }
  }
  return text;
}

// Serves as model and base alike: the output's program is that of the original.
void check_original(Evaluation& e, const LanguageModel& original) {
  const auto& windows = e.report.windows->windows;
  const ModelProgram& program = original.program();
  if (program.max_positions != 0 && e.report.window_length > program.max_positions) {
    throw Error(ErrorCode::usage,
                fmt::format("windows of {} tokens, but the model has {} positions", e.report.window_length,
                            program.max_positions),
                fmt::format("use --seq-len {}", program.max_positions));
  }
  for (const auto& window : windows) {
    const std::int32_t largest = *std::max_element(window.begin(), window.end());
    if (static_cast<std::uint64_t>(largest) < program.vocabulary) continue;
    throw Error(ErrorCode::usage,
                fmt::format("{} gives the token id {}, but the model's vocabulary has {} entries", e.request.text,
                            largest, program.vocabulary),
                "was it made with another tokenizer?");
  }
}

void warn_of_calibration_text(const EvaluationRequest& request, const std::string& calibration) {
  std::error_code ignored;
  if (calibration.empty() || !std::filesystem::equivalent(request.text, calibration, ignored)) return;
  std::fputs("warning: --eval and --calibration name the same file: the figures will be better than on other text\n",
             stderr);
}

}  // namespace

void add_evaluation_options(CLI::App& command, EvaluationRequest& request) {
  const char* group = "Evaluation";
  command
      .add_option("--eval", request.text,
                  "Then measure perplexity and divergence from the original on this text, for the report")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--eval-seq-len", request.seq_len, "Tokens of a window; 2048, or what the model was made for")
      ->type_name("N")
      ->check(CLI::Range(2, 10'000'000))
      ->group(group);
  command.add_option("--eval-windows", request.windows, "Windows to take; all by default")
      ->type_name("N")
      ->check(CLI::Range(1, 1'000'000'000))
      ->group(group);
  command.add_flag("--eval-bos", request.bos, "Begin each window with <s>")->group(group);
}

void check_evaluation_options(const EvaluationRequest& request) {
  const bool other = request.seq_len != 0 || request.windows != 0 || request.bos;
  if (!request.text.empty() || !other) return;
  throw Error(ErrorCode::usage, "--eval-seq-len, --eval-windows and --eval-bos need a text to evaluate on",
              "add --eval FILE", "NoEvaluation");
}

RunEvaluation::RunEvaluation(EvaluationRequest options, const PlanRequest& run, const std::string& output, bool quiet)
    : request_(complete(std::move(options), run, output, quiet)), evaluation_{request_,     nullptr, nullptr,
                                                                              std::nullopt, {},      {}} {
  if (!quiet) warn_of_calibration_text(request_, run.calibration);
}

void RunEvaluation::prepare(const Registry& registry) {
  try {
    // The output will have the original's tokenizer.
    EvaluationRequest original = request_;
    original.model = request_.base;
    OpenedModel opened(request_.base, registry, base_options(model_options(request_)));
    evaluation_.tokenizer = open_tokenizer(original, text_needs_tokenizer(request_));
    read_text_windows(evaluation_, trained_positions(opened.checkpoint->config()));
    check_original(evaluation_, opened.model);
    const auto& windows = evaluation_.report.windows->windows;
    opened.model.fit(evaluation_.report.window_length, evaluation_.report.window_length * windows.size());
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("--eval: {}", error.what()), translated(error.hint()), error.kind());
  }
}

void RunEvaluation::check_schemes(const Plan& plan) {
  for (const PlannedLinear& linear : plan.linears) {
    const auto& inputs = plan.groups[linear.scheme].scheme.input_activations;
    if (!inputs) continue;
    const std::string problem = problem_of_inputs(*inputs);
    if (problem.empty()) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("--eval: the inputs of {} are to be quantized as {}: {}", linear.shape.module,
                            describe(*inputs), problem),
                "leave --eval out, or choose another scheme for input_activations", "UnsupportedActivations");
  }
}

EvaluationReport RunEvaluation::measure(const Registry& registry) {
  const auto start = std::chrono::steady_clock::now();
  Evaluation& e = evaluation_;
  open_models(e, registry);
  measure_text(e);
  e.memory.sample();
  e.report.memory_measured = e.memory.bytes();
  e.report.memory_resident = MemoryPeak::resident();
  e.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  e.model.reset();
  e.base.reset();
  return evaluation_report(e.report);
}

}  // namespace quant::cli
