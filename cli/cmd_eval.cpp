// quant eval: how good a model is, quantized or not.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "errors.h"
#include "evaluation.h"
#include "plan_request.h"
#include "session.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

struct EvalCommand {
  EvaluationRequest request;
  std::string choices;
  bool speed = false;
};

constexpr std::uint64_t kSpeedPrompt = 512;

void check_command(const EvalCommand& command) {
  if (command.request.text.empty() && command.choices.empty() && !command.speed) {
    throw Error(
        ErrorCode::usage, "quant eval needs something to measure: --text FILE, --choices FILE or --speed",
        fmt::format("as in: quant eval {} --text examples/tiny-llama-novels/evaluation.txt", command.request.model),
        "NothingToMeasure");
  }
  read_chat_template(command.request.chat_template, {command.request.text});
  if (command.request.base.empty() || !command.request.text.empty() || !command.choices.empty()) return;
  throw Error(ErrorCode::usage, "--base is compared on a text or on choices: give --text FILE or --choices FILE");
}

void measure_choices(Evaluation& e, const std::string& file) {
  const std::vector<ChoiceQuestion> questions = read_choices(file);
  ChoiceOptions options;
  options.special = e.request.bos;
  options.limit = e.positions();
  std::uint64_t longest = 0;
  std::uint64_t tokens = 0;
  try {
    for (std::size_t q = 0; q < questions.size(); ++q) {
      for (std::size_t c = 0; c < questions[q].choices.size(); ++c) {
        const auto size = encode_choice(*e.tokenizer, questions, q, c, options).ids.size();
        longest = std::max<std::uint64_t>(longest, size);
        tokens += size;
      }
    }
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", file, error.what()), error.hint(), error.kind());
  }
  fit_models(e, longest, tokens);
  ProgressLine line("choosing", false);
  e.report.choices_file = file;
  e.report.choices_special = options.special;
  e.report.choices =
      evaluate_choices(e.model->model, e.base_model(), *e.tokenizer, questions, options, eval_options(e, line));
}

/// The beginning of the text; without one, ids spread over the vocabulary (speed does not depend on them).
std::vector<std::int32_t> speed_prompt(const Evaluation& e) {
  const std::uint64_t most = e.positions() == 0 ? kSpeedPrompt : std::min(kSpeedPrompt, e.positions() / 2);
  const std::uint64_t length = std::max<std::uint64_t>(2, e.request.seq_len != 0 ? e.request.seq_len : most);
  std::vector<std::int32_t> prompt;
  if (e.report.windows) prompt = e.report.windows->windows.front();
  prompt.resize(std::min<std::uint64_t>(length, prompt.empty() ? length : prompt.size()), -1);
  const std::uint64_t vocabulary = e.model->model.vocabulary();
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0) prompt[i] = static_cast<std::int32_t>(i * 7919 % vocabulary);
  }
  return prompt;
}

void measure_model_speed(Evaluation& e) {
  const std::vector<std::int32_t> prompt = speed_prompt(e);
  e.base.reset();  // its memory is not part of what is measured
  const MemoryPlan& plan = e.model->model.fit(prompt.size(), prompt.size());
  e.report.memory_planned = std::max(e.report.memory_planned, plan.bytes);
  e.report.speed = measure_speed(e.model->model, prompt, {});
  e.memory.sample();
}

int eval_command(const EvalCommand& command, Session& session) {
  const auto start = std::chrono::steady_clock::now();
  check_command(command);
  const EvaluationRequest& request = command.request;
  Evaluation e{request, nullptr, nullptr, std::nullopt, {}, {}};
  open_models(e, session.registry);
  e.tokenizer = open_tokenizer(request, text_needs_tokenizer(request) || !command.choices.empty());
  if (!request.text.empty()) {
    read_text_windows(e, e.positions());
    measure_text(e);
  }
  if (!command.choices.empty()) measure_choices(e, command.choices);
  if (command.speed) measure_model_speed(e);
  e.memory.sample();
  e.report.memory_measured = e.memory.bytes();
  e.report.memory_resident = MemoryPeak::resident();
  e.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_stdout(session.json ? json_text(eval_json(e.report)) : eval_text(e.report));
  return kExitOk;
}

}  // namespace

void add_eval(CLI::App& program, Session& session) {
  const auto options = std::make_shared<EvalCommand>();
  CLI::App* command =
      add_command(program, session, "eval", "Measure perplexity, divergence from a base, choices and speed",
                  "quant eval tiny-w4a16 --base examples/tiny-llama-novels \\\n"
                  "      --text examples/tiny-llama-novels/evaluation.txt --seq-len 256",
                  options, eval_command);
  EvaluationRequest& request = options->request;
  command->add_option("MODEL", request.model, "Checkpoint directory, quantized or not")->required();
  command->add_option("--base", request.base, "The original: its perplexity, and how far MODEL diverges from it")
      ->type_name("DIR");
  command->add_option("--text", request.text, "Text, JSON lines, or token ids (.npy, .h5) for perplexity")
      ->type_name("FILE");
  command->add_option("--seq-len", request.seq_len, "Tokens of a window; 2048, or what the model was made for")
      ->type_name("N")
      ->check(CLI::Range(2, 10'000'000));
  command->add_option("--windows", request.windows, "Windows to take; all by default")
      ->type_name("N")
      ->check(CLI::Range(1, 1'000'000'000));
  add_chat_template_option(*command, request.chat_template);
  command->add_flag("--bos", request.bos, "Begin each window with <s>; choices with what the tokenizer adds");
  command->add_option("--product", request.product, "Operands of matrix products: f32 or bf16 (faster)")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  command
      ->add_option("--kv-cache", request.kv_cache,
                   "int8, int4, int3, int2 or fp8, with ,group= ,residual= ,keys= "
                   ",values=; none; as the checkpoint says by default")
      ->type_name("SPEC");
  command->add_flag("--no-activation-quantization", request.no_activation_quantization,
                    "Evaluate the quantized weights alone");
  command->add_option("--choices", options->choices, "Multiple choice: JSON lines of prompt, choices, answer")
      ->type_name("FILE");
  command->add_flag("--speed", options->speed, "Measure time to first token, prefill and decode rate");
  command->add_option("--memory", request.memory, "Memory that may be used, as in 8G; 3/4 of what is free by default")
      ->type_name("SIZE");
  add_threads_option(*command, request.threads);
}

}  // namespace quant::cli
