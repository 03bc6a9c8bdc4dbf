// A causal language model that computes logits: from any checkpoint, packed or not, under a memory budget.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/forward.h"
#include "quant/model_program.h"

namespace quant {

/// What evaluation asks of a model: token sequences in, rows of logits out, in two steps, so that the logits of many
/// tokens (tokens x vocabulary) never exist at once.
class LogitModel {
 public:
  virtual ~LogitModel() = default;
  virtual std::uint64_t vocabulary() const = 0;
  /// Tokens whose states run() may be asked to hold at once; a longer single sequence must be possible too.
  virtual std::uint64_t group_tokens() const = 0;
  /// Runs all layers but the last on the sequences and keeps the states of their tokens until the next call. Ids are in
  /// [0, vocabulary). `progress`: receives the finished share, 0 to 1; may be empty.
  virtual void run(std::span<const std::vector<std::int32_t>> sequences,
                   const std::function<void(double)>& progress) = 0;
  /// Logits of tokens of the last run: rows[i] counts tokens through all its sequences. out.size() == rows.size() *
  /// vocabulary. The bits of a row do not depend on what else is asked for.
  virtual void logits(std::span<const std::uint64_t> rows, std::span<float> out) = 0;
  /// Sentences naming the weights that are NaN or infinite, a line each; empty if there are none or it is not known.
  /// Asked for when logits are not finite; may read everything.
  virtual std::string non_finite_weights() const { return {}; }
};

struct LanguageModelOptions {
  ProductType product = ProductType::f32;
  int threads = 0;                           ///< 0: all processors
  std::uint64_t memory = 0;                  ///< bytes that weights, states and logits may take; 0: no limit
  bool quantize_activations = true;          ///< as the checkpoint's schemes say
  bool quantize_kv_cache = true;             ///< as the checkpoint says, or as `kv_cache` says
  std::optional<KvQuantizer> kv_cache = {};  ///< instead of the checkpoint's own scheme
  const std::atomic<bool>* stop = nullptr;   ///< set to true: calls end with Error{interrupted}
  int models = 1;                            ///< that share a limit of models * memory: for what is said of it
};

/// How a model is run within a memory budget. Results do not depend on it.
struct MemoryPlan {
  bool resident = true;            ///< all weights stay in memory; else one block at a time
  std::uint64_t chunk_tokens = 0;  ///< tokens that pass a block together (whole sequences)
  std::uint64_t group_tokens = 0;  ///< tokens whose states are held between blocks
  std::uint64_t weight_bytes = 0;  ///< largest amount of prepared weights
  std::uint64_t bytes = 0;         ///< all together
};

/// A checkpoint's program, run block by block. The weights must outlive it.
class LanguageModel final : public LogitModel {
 public:
  /// Throws as build_model_program does; Error{unsupported} for encoders, models without a language-model head, and
  /// activation or KV-cache schemes that cannot be computed.
  LanguageModel(const ModelWeights& weights, const LanguageModelOptions& options);
  ~LanguageModel() override;
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  const ModelProgram& program() const;
  const LanguageModelOptions& options() const;
  /// Linears whose inputs are quantized, and the scheme of the first ("int8 sym token"); empty: none.
  std::uint64_t quantized_inputs() const;
  const std::string& input_scheme() const;
  const std::optional<KvQuantizer>& kv_cache() const;  ///< the one in use

  /// Chooses how to run sequences of at most `longest` tokens, `tokens` in total, within options().memory, and returns
  /// it. Without this call everything stays in memory. Throws Error{usage} if the budget is too small, saying how much
  /// is needed.
  const MemoryPlan& fit(std::uint64_t longest, std::uint64_t tokens);
  const MemoryPlan& memory_plan() const;
  /// Forgets prepared weights: they are read anew, with replacements that were set meanwhile.
  void forget_weights();

  std::uint64_t vocabulary() const override;
  std::uint64_t group_tokens() const override;
  void run(std::span<const std::vector<std::int32_t>> sequences, const std::function<void(double)>& progress) override;
  void logits(std::span<const std::uint64_t> rows, std::span<float> out) override;
  std::string non_finite_weights() const override;

 private:
  friend class Decoder;
  struct State;
  std::unique_ptr<State> state_;
};

/// One sequence, token by token, with a cache of keys and values. The model must outlive it and not be run meanwhile.
class Decoder {
 public:
  explicit Decoder(LanguageModel& model);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Appends tokens and returns the logits [vocabulary] of the last one, valid until the next call.
  std::span<const float> feed(std::span<const std::int32_t> ids);
  std::uint64_t length() const;  ///< tokens fed

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The largest position that config.json says the model was made for ("max_position_embeddings", "n_positions", ...; in
/// "text_config" too); 0 if it does not say.
std::uint64_t trained_positions(const ModelConfig& config);

}  // namespace quant
