// quant eval: how good a model is, quantized or not.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>

#include "errors.h"
#include "eval_text.h"
#include "interrupt.h"
#include "kv_cache_option.h"
#include "machine_memory.h"
#include "progress.h"
#include "quant/evaluate.h"
#include "quant/open.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

struct EvalCommand {
  std::string model;
  std::string base;
  std::string text;
  std::string choices;
  std::uint64_t seq_len = 0;
  std::uint64_t windows = 0;
  bool bos = false;
  std::string product = "f32";
  std::string kv_cache;
  bool no_activation_quantization = false;
  bool speed = false;
  std::string memory;
  int threads = 0;
};

constexpr std::uint64_t kDefaultWindow = 2048;
constexpr std::uint64_t kSpeedPrompt = 512;

/// A checkpoint and all that reads it.
struct OpenedModel {
  OpenedModel(const std::string& path, const Registry& registry, const LanguageModelOptions& options)
      : checkpoint(open_checkpoint(path)),
        tensors(*checkpoint, registry),
        weights(tensors),
        model(weights, options),
        description{path, weights_text(), inputs_text(), cache_text()} {}

  std::string weights_text() const {
    std::set<std::string> schemes;
    for (const StoredLinear& linear : tensors.linears()) schemes.insert(describe(linear.args));
    if (schemes.size() > 1) return fmt::format("{} and {} more", *schemes.begin(), schemes.size() - 1);
    if (!schemes.empty()) return *schemes.begin();
    const auto& all = checkpoint->tensors();
    const auto widest = std::max_element(all.begin(), all.end(),
                                         [](const TensorInfo& a, const TensorInfo& b) { return a.bytes < b.bytes; });
    return widest == all.end() ? "no" : std::string(dtype_name(widest->dtype));
  }
  std::string inputs_text() const {
    if (model.quantized_inputs() == 0) return "float";
    return fmt::format("{} in {}", model.input_scheme(), counted(model.quantized_inputs(), "linear"));
  }
  std::string cache_text() const { return model.kv_cache() ? describe_kv_cache(*model.kv_cache()) : "float"; }

  std::unique_ptr<Checkpoint> checkpoint;
  LogicalTensors tensors;
  ModelWeights weights;
  LanguageModel model;
  EvaluatedModel description;
};

/// All that one run of the command holds.
struct Evaluation {
  const EvalCommand& command;
  std::unique_ptr<OpenedModel> model;
  std::unique_ptr<OpenedModel> base;
  std::optional<Tokenizer> tokenizer;
  EvalReport report;
  MemoryPeak memory;

  LanguageModel* base_model() { return base ? &base->model : nullptr; }
  std::uint64_t positions() const { return trained_positions(model->checkpoint->config()); }
};

void check_command(const EvalCommand& command) {
  if (command.text.empty() && command.choices.empty() && !command.speed) {
    throw Error(ErrorCode::usage, "quant eval needs something to measure: --text FILE, --choices FILE or --speed",
                fmt::format("as in: quant eval {} --text examples/tiny-llama-novels/evaluation.txt", command.model),
                "NothingToMeasure");
  }
  if (command.base.empty() || !command.text.empty() || !command.choices.empty()) return;
  throw Error(ErrorCode::usage, "--base is compared on a text or on choices: give --text FILE or --choices FILE");
}

LanguageModelOptions model_options(const EvalCommand& command) {
  LanguageModelOptions options;
  options.product = command.product == "bf16" ? ProductType::bf16 : ProductType::f32;
  options.threads = command.threads;
  // A quarter is left to the rest of the machine.
  options.memory = command.memory.empty() ? available_memory() / 4 * 3 : parse_size(command.memory, "--memory");
  if (!command.base.empty()) options.memory /= 2;
  options.quantize_activations = !command.no_activation_quantization;
  if (!command.kv_cache.empty()) {
    options.kv_cache = parse_kv_cache(command.kv_cache);
    options.quantize_kv_cache = options.kv_cache.has_value();
  }
  options.stop = watch_interrupts();
  return options;
}

/// The base runs as its own checkpoint says: what is asked for on the command line is the model's.
LanguageModelOptions base_options(LanguageModelOptions options) {
  options.quantize_activations = true;
  options.quantize_kv_cache = true;
  options.kv_cache.reset();
  return options;
}

/// Files of ids can do without a tokenizer; everything else needs the model's own, or the base's where a quantized copy
/// came without one.
void open_tokenizer(Evaluation& e) {
  const fs::path own = e.command.model;
  const fs::path other = e.command.base;
  const auto has = [](const fs::path& directory) { return fs::exists(directory / "tokenizer.json"); };
  const std::string extension = fs::path(e.command.text).extension().string();
  const bool ids = extension == ".npy" || extension == ".h5" || extension == ".hdf5";
  const bool needed = (!e.command.text.empty() && !ids) || !e.command.choices.empty() || e.command.bos;
  if (has(own)) {
    e.tokenizer = Tokenizer::open(own);
  } else if (!e.command.base.empty() && has(other)) {
    e.tokenizer = Tokenizer::open(other);
  } else if (needed) {
    throw Error(ErrorCode::io, fmt::format("{} has no tokenizer.json", e.command.model),
                "copy the original model's tokenizer.json there, or give token ids as .npy or .h5", "NoTokenizer");
  }
}

std::int32_t first_token(const Evaluation& e) {
  const auto bos = e.tokenizer->bos();
  if (bos) return *bos;
  throw Error(ErrorCode::usage, fmt::format("--bos: the tokenizer of {} names no token to begin with", e.command.model),
              "leave --bos out", "NoBos");
}

std::uint64_t window_length(const Evaluation& e) {
  const std::uint64_t most = e.positions();
  if (e.command.seq_len != 0) return e.command.seq_len;
  return most == 0 ? kDefaultWindow : std::min(kDefaultWindow, most);
}

/// Draws the line, and looks at the memory.
EvalOptions eval_options(Evaluation& e, ProgressLine& line) {
  EvalOptions options;
  options.threads = e.command.threads;
  options.stop = watch_interrupts();
  options.progress = [&e, &line, start = std::chrono::steady_clock::now()](std::uint64_t done, std::uint64_t total) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    e.memory.sample();
    line.update({done, total, 0, elapsed.count(), {}, false, "tokens"});
  };
  return options;
}

void fit_models(Evaluation& e, std::uint64_t longest, std::uint64_t tokens) {
  const MemoryPlan& plan = e.model->model.fit(longest, tokens);
  std::uint64_t planned = plan.bytes;
  bool resident = plan.resident;
  if (e.base) {
    const MemoryPlan& base = e.base->model.fit(longest, tokens);
    planned += base.bytes;
    resident = resident && base.resident;
  }
  e.report.memory_planned = std::max(e.report.memory_planned, planned);
  e.report.resident = e.report.resident && resident;
}

void measure_text(Evaluation& e) {
  EvalReport& report = e.report;
  WindowOptions options;
  options.length = window_length(e);
  options.count = e.command.windows;
  if (e.command.bos) options.first = first_token(e);
  report.text = e.command.text;
  report.window_length = options.length;
  report.first = options.first;
  report.windows = read_windows(e.command.text, e.tokenizer ? &*e.tokenizer : nullptr, options);
  const auto& windows = report.windows->windows;
  fit_models(e, options.length, options.length * windows.size());
  ProgressLine line("evaluating", false);
  report.result = evaluate_perplexity(e.model->model, e.base_model(), windows, eval_options(e, line));
}

void measure_choices(Evaluation& e) {
  const std::vector<ChoiceQuestion> questions = read_choices(e.command.choices);
  ChoiceOptions options;
  options.special = e.command.bos;
  options.limit = e.positions();
  std::uint64_t longest = 0;
  std::uint64_t tokens = 0;
  for (const ChoiceQuestion& question : questions) {
    for (const std::string& choice : question.choices) {
      const auto size = encode_choice(*e.tokenizer, question.prompt, choice, options.special, options.limit).ids.size();
      longest = std::max<std::uint64_t>(longest, size);
      tokens += size;
    }
  }
  fit_models(e, longest, tokens);
  ProgressLine line("choosing", false);
  e.report.choices_file = e.command.choices;
  e.report.choices_special = options.special;
  e.report.choices =
      evaluate_choices(e.model->model, e.base_model(), *e.tokenizer, questions, options, eval_options(e, line));
}

/// The beginning of the text; without one, ids spread over the vocabulary (speed does not depend on them).
std::vector<std::int32_t> speed_prompt(const Evaluation& e) {
  const std::uint64_t most = e.positions() == 0 ? kSpeedPrompt : std::min(kSpeedPrompt, e.positions() / 2);
  const std::uint64_t length = std::max<std::uint64_t>(2, e.command.seq_len != 0 ? e.command.seq_len : most);
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
  const LanguageModelOptions options = model_options(command);
  Evaluation e{command, nullptr, nullptr, std::nullopt, {}, {}};
  e.model = std::make_unique<OpenedModel>(command.model, session.registry, options);
  if (!command.base.empty()) {
    e.base = std::make_unique<OpenedModel>(command.base, session.registry, base_options(options));
    e.report.base = e.base->description;
  }
  open_tokenizer(e);
  e.report.model = e.model->description;
  e.report.product = command.product;
  e.report.threads = e.model->model.options().threads;
  if (!command.text.empty()) measure_text(e);
  if (!command.choices.empty()) measure_choices(e);
  if (command.speed) measure_model_speed(e);
  e.memory.sample();
  e.report.memory_measured = e.memory.bytes();
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
  command->add_option("MODEL", options->model, "Checkpoint directory, quantized or not")->required();
  command->add_option("--base", options->base, "The original: its perplexity, and how far MODEL diverges from it")
      ->type_name("DIR");
  command->add_option("--text", options->text, "Text, JSON lines, or token ids (.npy, .h5) for perplexity")
      ->type_name("FILE");
  command->add_option("--seq-len", options->seq_len, "Tokens of a window; 2048, or what the model was made for")
      ->type_name("N")
      ->check(CLI::Range(2, 10'000'000));
  command->add_option("--windows", options->windows, "Windows to take; all by default")
      ->type_name("N")
      ->check(CLI::Range(1, 1'000'000'000));
  command->add_flag("--bos", options->bos, "Begin each window with <s>; choices with what the tokenizer adds");
  command->add_option("--product", options->product, "Operands of matrix products: f32 or bf16 (faster)")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  command
      ->add_option("--kv-cache", options->kv_cache,
                   "int8, int4, int3, int2 or fp8, with ,group= ,residual= ,keys= "
                   ",values=; none; as the checkpoint says by default")
      ->type_name("SPEC");
  command->add_flag("--no-activation-quantization", options->no_activation_quantization,
                    "Evaluate the quantized weights alone");
  command->add_option("--choices", options->choices, "Multiple choice: JSON lines of prompt, choices, answer")
      ->type_name("FILE");
  command->add_flag("--speed", options->speed, "Measure time to first token, prefill and decode rate");
  command->add_option("--memory", options->memory, "Memory that may be used, as in 8G; 3/4 of what is free by default")
      ->type_name("SIZE");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
