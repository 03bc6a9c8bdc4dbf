#include "quant/language_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "evaluate/eval_loop.h"
#include "evaluate/memory_plan.h"
#include "evaluate/run_schemes.h"
#include "finite_tensors.h"
#include "quant/error.h"

namespace quant {
namespace {

using evaluate::Sequences;

/// Whole sequences that pass a block together, and their states [tokens, hidden].
struct Chunk {
  std::size_t first = 0;  // sequence
  std::size_t end = 0;
  std::uint64_t first_token = 0;
  Batch batch;
  std::vector<std::int32_t> ids;
  std::vector<float> states;
};

std::vector<Chunk> divide(Sequences sequences, std::uint64_t chunk_tokens) {
  std::vector<Chunk> chunks;
  std::uint64_t token = 0;
  std::uint64_t filled = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (chunks.empty() || filled + sequences[s].size() > chunk_tokens) {
      chunks.push_back({s, s, token, {}, {}, {}});
      filled = 0;
    }
    Chunk& chunk = chunks.back();
    chunk.end = s + 1;
    chunk.batch.lengths.push_back(sequences[s].size());
    chunk.ids.insert(chunk.ids.end(), sequences[s].begin(), sequences[s].end());
    filled += sequences[s].size();
    token += sequences[s].size();
  }
  for (Chunk& chunk : chunks) chunk.batch.ids = chunk.ids;
  return chunks;
}

void require_language_model(const ModelProgram& program, const LogicalTensors& tensors) {
  const std::string name = tensors.checkpoint().location().string();
  if (!program.causal) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{} is an encoder ({}): it does not predict next tokens", name, program.family),
                "perplexity and multiple choice need a causal language model", "NotCausal");
  }
  const auto& ops = program.head.ops;
  if (std::none_of(ops.begin(), ops.end(), [](const Op& op) { return std::holds_alternative<LinearOp>(op); })) {
    throw Error(ErrorCode::unsupported, fmt::format("{} has no language-model head", name),
                "evaluate the checkpoint with its head (lm_head, or tied embeddings)", "NoHead");
  }
}

/// The attention module of a block, or empty.
std::string attention_module(const Program& block) {
  for (const Op& op : block.ops) {
    if (const auto* attention = std::get_if<AttentionOp>(&op)) return attention->module;
  }
  return {};
}

}  // namespace

struct LanguageModel::State {
  State(const ModelWeights& given, const LanguageModelOptions& wanted)
      : weights(given), options(wanted), program(build_model_program(given.tensors())) {
    require_language_model(program, weights.tensors());
    options.threads = evaluate::thread_count(options.threads);
    forward.product = options.product;
    forward.threads = options.threads;
    forward.packed = true;
    if (options.quantize_activations) inputs = evaluate::input_quantizers(weights.tensors());
    if (options.quantize_kv_cache) {
      kv = options.kv_cache;
      if (!kv) use_stored_cache();
    }
    make_runners();
  }

  void use_stored_cache() {
    const auto stored = evaluate::stored_kv_scheme(weights.tensors());
    if (!stored) return;
    kv = stored->kv;
    kv_needs_scales = stored->needs_scales;
  }

  void make_runners() {
    embeddings.emplace(program.embeddings, weights, forward);
    head.emplace(program.head, weights, forward);
    set_inputs(*head);
    blocks.reserve(program.blocks.size());
    for (const Program& block : program.blocks) {
      blocks.emplace_back(block, weights, forward);
      set_inputs(blocks.back());
      if (kv) {
        blocks.back().set_kv_quantizer(
            evaluate::with_scales(*kv, weights.tensors(), attention_module(block), kv_needs_scales));
      }
    }
  }
  /// Tells a runner which of its linears quantize their inputs.
  void set_inputs(ProgramRunner& runner) {
    for (const Op& op : runner.program().ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      for (const LinearWeight& weight : linear->weights) {
        const auto found = inputs.find(weight.module);
        if (found == inputs.end()) continue;
        runner.set_input_quantizer(weight.module, found->second);
        if (quantized_inputs++ == 0) input_scheme = describe(found->second.args);
      }
    }
  }

  void check_stop() const {
    if (options.stop != nullptr && *options.stop) throw Error(ErrorCode::interrupted, "the evaluation was interrupted");
  }
  static void release(ProgramRunner& runner) { runner.release(0, runner.program().ops.size()); }

  /// All operations of a program on one batch; the output comes back.
  static std::vector<float> run_program(ProgramRunner& runner, const Batch& batch, std::vector<float> input,
                                        KvCache* cache = nullptr) {
    const Program& program = runner.program();
    Values values(program);
    if (program.input >= 0) values.at(program.input) = std::move(input);
    const ValueId keep[] = {program.output};
    runner.run(0, program.ops.size(), batch, values, keep, cache);
    return std::move(values.at(program.output));
  }
  void run_part(ProgramRunner& runner, const std::function<void()>& chunk_done) {
    for (Chunk& chunk : chunks) {
      check_stop();
      chunk.states = run_program(runner, chunk.batch, std::move(chunk.states));
      chunk_done();
    }
    if (!plan.resident) release(runner);
  }

  const ModelWeights& weights;
  LanguageModelOptions options;
  ModelProgram program;
  ForwardOptions forward;
  std::map<std::string, InputQuantizer> inputs;
  std::uint64_t quantized_inputs = 0;
  std::string input_scheme;
  std::optional<KvQuantizer> kv;
  bool kv_needs_scales = false;
  MemoryPlan plan;
  std::optional<ProgramRunner> embeddings, head;
  std::vector<ProgramRunner> blocks;
  std::vector<Chunk> chunks;
};

LanguageModel::LanguageModel(const ModelWeights& weights, const LanguageModelOptions& options)
    : state_(std::make_unique<State>(weights, options)) {
  state_->plan.chunk_tokens = 1024;
  state_->plan.group_tokens = ~std::uint64_t{0};
}
LanguageModel::~LanguageModel() = default;

const ModelProgram& LanguageModel::program() const { return state_->program; }
const LanguageModelOptions& LanguageModel::options() const { return state_->options; }
std::uint64_t LanguageModel::quantized_inputs() const { return state_->quantized_inputs; }
const std::string& LanguageModel::input_scheme() const { return state_->input_scheme; }
const std::optional<KvQuantizer>& LanguageModel::kv_cache() const { return state_->kv; }
const MemoryPlan& LanguageModel::memory_plan() const { return state_->plan; }
std::string LanguageModel::non_finite_weights() const {
  const Checkpoint& checkpoint = state_->weights.tensors().checkpoint();
  ThreadPool pool(state_->options.threads);
  return describe_non_finite(
      checkpoint, floating_tensors(checkpoint), pool, [] {}, state_->options.stop);
}

std::uint64_t LanguageModel::vocabulary() const { return state_->program.vocabulary; }
std::uint64_t LanguageModel::group_tokens() const { return state_->plan.group_tokens; }

const MemoryPlan& LanguageModel::fit(std::uint64_t longest, std::uint64_t tokens) {
  state_->plan = evaluate::plan_memory(state_->program, state_->weights, state_->options, longest, tokens);
  return state_->plan;
}

void LanguageModel::forget_weights() {
  State::release(*state_->embeddings);
  State::release(*state_->head);
  for (ProgramRunner& block : state_->blocks) State::release(block);
}

void LanguageModel::run(Sequences sequences, const std::function<void(double)>& progress) {
  State& s = *state_;
  if (!s.plan.resident) State::release(*s.head);
  s.chunks.clear();  // before the new states exist
  s.chunks = divide(sequences, s.plan.chunk_tokens);
  const auto steps = static_cast<double>(s.chunks.size() * (s.blocks.size() + 1));
  std::uint64_t done = 0;
  const auto chunk_done = [&] {
    if (progress) progress(static_cast<double>(++done) / steps);
  };
  s.run_part(*s.embeddings, chunk_done);
  for (ProgramRunner& block : s.blocks) s.run_part(block, chunk_done);
}

void LanguageModel::logits(std::span<const std::uint64_t> rows, std::span<float> out) {
  State& s = *state_;
  s.check_stop();
  if (rows.empty()) return;
  const std::uint64_t hidden = s.program.hidden;
  // A product of a single row may be computed in another order than the same row among others.
  const std::size_t count = std::max<std::size_t>(2, rows.size());
  std::vector<float> states(count * hidden);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t row = rows[std::min(i, rows.size() - 1)];
    const auto next = std::upper_bound(s.chunks.begin(), s.chunks.end(), row,
                                       [](std::uint64_t r, const Chunk& chunk) { return r < chunk.first_token; });
    const Chunk& chunk = *std::prev(next);
    const auto from = chunk.states.begin() + static_cast<std::ptrdiff_t>((row - chunk.first_token) * hidden);
    std::copy(from, from + static_cast<std::ptrdiff_t>(hidden),
              states.begin() + static_cast<std::ptrdiff_t>(i * hidden));
  }
  Batch batch;
  batch.lengths = {count};
  const std::vector<float> result = State::run_program(*s.head, batch, std::move(states));
  std::copy(result.begin(), result.begin() + static_cast<std::ptrdiff_t>(out.size()), out.begin());
}

struct Decoder::State {
  explicit State(LanguageModel::State& given) : model(given), caches(given.blocks.size()) {}
  LanguageModel::State& model;
  std::vector<KvCache> caches;
  std::vector<float> logits;
  std::uint64_t length = 0;
};

Decoder::Decoder(LanguageModel& model) : state_(std::make_unique<State>(*model.state_)) {}
Decoder::~Decoder() = default;
std::uint64_t Decoder::length() const { return state_->length; }

std::span<const float> Decoder::feed(std::span<const std::int32_t> ids) {
  State& s = *state_;
  if (ids.empty()) throw Error(ErrorCode::usage, "a decoder needs at least one token");
  Batch batch;
  batch.lengths = {ids.size()};
  batch.first_position = {s.length};
  batch.ids = ids;
  std::vector<float> states = LanguageModel::State::run_program(*s.model.embeddings, batch, {});
  for (std::size_t b = 0; b < s.model.blocks.size(); ++b) {
    s.model.check_stop();
    states = LanguageModel::State::run_program(s.model.blocks[b], batch, std::move(states), &s.caches[b]);
  }
  const std::uint64_t hidden = s.model.program.hidden;
  states.erase(states.begin(), states.end() - static_cast<std::ptrdiff_t>(hidden));
  batch.lengths = {1};
  s.logits = LanguageModel::State::run_program(*s.model.head, batch, std::move(states));
  s.length += ids.size();
  return s.logits;
}

std::uint64_t trained_positions(const ModelConfig& config) {
  const auto json = nlohmann::json::parse(config.text, nullptr, false);
  if (!json.is_object()) return 0;
  const auto within = [](const nlohmann::json& object) -> std::uint64_t {
    for (const char* key : {"max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"}) {
      const auto found = object.find(key);
      if (found != object.end() && found->is_number_unsigned()) return found->get<std::uint64_t>();
    }
    return 0;
  };
  if (const std::uint64_t positions = within(json)) return positions;
  const auto text = json.find("text_config");
  return text != json.end() && text->is_object() ? within(*text) : 0;
}

}  // namespace quant
