#include "evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "interrupt.h"
#include "kv_cache_option.h"
#include "plan_request.h"
#include "quant/data_files.h"
#include "quant/error.h"
#include "quant/open.h"
#include "units.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kDefaultWindow = 2048;

std::string weights_text(const Checkpoint& checkpoint, const LogicalTensors& tensors) {
  std::set<std::string> schemes;
  for (const StoredLinear& linear : tensors.linears()) schemes.insert(describe(linear.args));
  if (schemes.size() > 1) return fmt::format("{} and {} more", *schemes.begin(), schemes.size() - 1);
  if (!schemes.empty()) return *schemes.begin();
  const auto& all = checkpoint.tensors();
  const auto widest = std::max_element(all.begin(), all.end(),
                                       [](const TensorInfo& a, const TensorInfo& b) { return a.bytes < b.bytes; });
  return widest == all.end() ? "no" : std::string(dtype_name(widest->dtype));
}

std::string inputs_text(const LanguageModel& model) {
  if (model.quantized_inputs() == 0) return "float";
  return fmt::format("{} in {}", model.input_scheme(), counted(model.quantized_inputs(), "linear"));
}

std::string cache_text(const LanguageModel& model) {
  return model.kv_cache() ? describe_kv_cache(*model.kv_cache()) : "float";
}

bool has_tokenizer(const std::string& model) {
  return !model.empty() && fs::exists(model_directory(model) / "tokenizer.json");
}

std::int32_t first_token(const Evaluation& e) {
  const auto bos = e.tokenizer ? e.tokenizer->bos() : std::nullopt;
  if (bos) return *bos;
  throw Error(
      ErrorCode::usage,
      fmt::format("windows cannot begin with <s>: the tokenizer of {} names no token to begin with", e.request.model),
      "leave --bos out", "NoBos");
}

}  // namespace

OpenedModel::OpenedModel(const std::string& path, const Registry& registry, const LanguageModelOptions& options)
    : checkpoint(open_checkpoint(path)),
      tensors(*checkpoint, registry),
      weights(tensors),
      model(weights, options),
      description{path, weights_text(*checkpoint, tensors), inputs_text(model), cache_text(model)} {}

LanguageModelOptions model_options(const EvaluationRequest& request) {
  LanguageModelOptions options;
  options.product = request.product == "bf16" ? ProductType::bf16 : ProductType::f32;
  options.threads = request.threads;
  // A quarter is left to the rest of the machine.
  options.memory = request.memory.empty() ? available_memory() / 4 * 3 : parse_size(request.memory, "--memory");
  options.models = request.base.empty() ? 1 : 2;
  options.memory /= static_cast<std::uint64_t>(options.models);
  options.quantize_activations = !request.no_activation_quantization;
  if (!request.kv_cache.empty()) {
    options.kv_cache = parse_kv_cache(request.kv_cache);
    options.quantize_kv_cache = options.kv_cache.has_value();
  }
  options.stop = watch_interrupts();
  return options;
}

LanguageModelOptions base_options(LanguageModelOptions options) {
  options.quantize_activations = true;
  options.quantize_kv_cache = true;
  options.kv_cache.reset();
  return options;
}

void open_models(Evaluation& e, const Registry& registry) {
  const LanguageModelOptions options = model_options(e.request);
  e.model = std::make_unique<OpenedModel>(e.request.model, registry, options);
  if (!e.request.base.empty()) {
    e.base = std::make_unique<OpenedModel>(e.request.base, registry, base_options(options));
    e.report.base = e.base->description;
  }
  e.report.model = e.model->description;
  e.report.product = e.request.product;
  e.report.threads = e.model->model.options().threads;
}

bool text_needs_tokenizer(const EvaluationRequest& request) {
  return (!request.text.empty() && !holds_token_ids(request.text)) || request.bos;
}

std::optional<Tokenizer> open_tokenizer(const EvaluationRequest& request, bool needed) {
  for (const std::string& model : {request.model, request.base}) {
    if (has_tokenizer(model)) return Tokenizer::open(model_directory(model));
  }
  if (!needed) return std::nullopt;
  throw Error(ErrorCode::io, fmt::format("{} has no tokenizer.json", request.model),
              "copy the original model's tokenizer.json there, or give token ids as .npy or .h5", "NoTokenizer");
}

void read_text_windows(Evaluation& e, std::uint64_t positions) {
  EvalReport& report = e.report;
  WindowOptions options;
  options.length = e.request.seq_len;
  if (options.length == 0) options.length = positions == 0 ? kDefaultWindow : std::min(kDefaultWindow, positions);
  if (!e.request.quiet && positions != 0 && options.length > positions) {
    fmt::print(stderr,
               "warning: windows of {} tokens, but the model was made for {} positions "
               "(max_position_embeddings)\n",
               options.length, positions);
  }
  options.count = e.request.windows;
  if (e.request.bos) options.first = first_token(e);
  options.chat = read_chat_template(e.request.chat_template, {e.request.text});
  report.text = e.request.text;
  report.window_length = options.length;
  report.first = options.first;
  report.windows = read_windows(e.request.text, e.tokenizer ? &*e.tokenizer : nullptr, options);
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

EvalOptions eval_options(Evaluation& e, ProgressLine& line) {
  EvalOptions options;
  options.threads = e.request.threads;
  options.stop = watch_interrupts();
  options.progress = [&e, &line, start = std::chrono::steady_clock::now()](std::uint64_t done, std::uint64_t total) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    e.memory.sample();
    line.update({done, total, 0, elapsed.count(), {}, false, "tokens"});
  };
  return options;
}

void measure_text(Evaluation& e) {
  const auto& windows = e.report.windows->windows;
  fit_models(e, e.report.window_length, e.report.window_length * windows.size());
  ProgressLine line("evaluating", e.request.quiet);
  e.report.result = evaluate_perplexity(e.model->model, e.base_model(), windows, eval_options(e, line));
}

EvaluationReport evaluation_report(const EvalReport& report) {
  const auto as = [](const EvaluatedModel& model) {
    return EvaluatedAs{model.weights, model.activations, model.kv_cache};
  };
  EvaluationReport entry;
  // Without its folder: what lies elsewhere on another machine is the same text.
  entry.source = fs::path(report.text).filename().string();
  entry.hash = report.windows->hash;
  entry.window_length = report.window_length;
  entry.first_token = report.first;
  entry.text_bytes = report.windows->bytes;
  entry.product = report.product;
  entry.model = as(report.model);
  if (report.base) entry.base = as(*report.base);
  entry.result = *report.result;
  entry.seconds = report.seconds;
  entry.peak_memory_planned = report.memory_planned;
  entry.peak_memory_measured = report.memory_measured;
  entry.peak_resident_memory = report.memory_resident;
  return entry;
}

}  // namespace quant::cli
