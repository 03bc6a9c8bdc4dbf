// Executes model programs on batches of token sequences, in float32.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/linalg.h"
#include "quant/logical_tensors.h"
#include "quant/model_program.h"
#include "quant/quantized_tensor.h"

namespace quant {

/// The weights of a model as float32: those of a checkpoint (packed or not), with replacements in memory.
/// read() may be called by several threads; set() and drop() may not run beside it.
class ModelWeights {
 public:
  explicit ModelWeights(const LogicalTensors& tensors) : tensors_(tensors) {}
  /// All values of a tensor. Throws Error{corrupt_file} naming it if it is missing.
  std::vector<float> read(const std::string& tensor, int threads) const;
  /// A linear's weight as [rows, cols], whatever way it is stored.
  std::vector<float> read(const LinearWeight& weight, int threads) const;
  /// The quantized matrix that read_quantized reads, or null if it reads none.
  const StoredLinear* stored_linear(const LinearWeight& weight) const;
  /// A linear's weight as it is stored, if it is a quantized matrix of its own that nothing replaces.
  std::optional<QuantizedTensor> read_quantized(const LinearWeight& weight, int threads) const;
  /// Rows [first, first + count) of a tensor seen as a matrix; out.size() == count * columns.
  void read_rows(const std::string& tensor, std::uint64_t first, std::uint64_t count, std::span<float> out) const;
  void set(const std::string& tensor, std::vector<float> values);  ///< replaces a tensor (in its stored order)
  void set(const LinearWeight& weight,
           std::vector<float> values);   ///< replaces a linear's weight, given as [rows, cols]
  void drop(const std::string& tensor);  ///< forgets a replacement
  const LogicalTensors& tensors() const { return tensors_; }

 private:
  const LogicalTensors& tensors_;
  std::map<std::string, std::vector<float>> replaced_;
};

/// Sequences whose tokens lie one after another in every value of a batch.
struct Batch {
  std::vector<std::uint64_t> lengths;         ///< tokens of each sequence
  std::vector<std::uint64_t> first_position;  ///< of each sequence's first token; empty: 0
  std::span<const std::int32_t> ids;          ///< [tokens]; needed by the embeddings only
  std::uint64_t tokens() const;
};

/// How a linear's inputs are quantized before the product (activation quantization). A dynamic scale of a whole tensor
/// is that of one sequence, for an expert that of its rows of one sequence; outlier columns are found in such rows,
/// too.
struct InputQuantizer {
  QuantArgs args;
  float scale = 0;       ///< static per-tensor scale, for NVFP4 the global scale (which divides); 0: dynamic
  float zero_point = 0;  ///< static, asymmetric
};

/// How keys and values are quantized before attention reads them. Of the t + 1 tokens that the query at position t may
/// look at, the newest `residual` (its own among them) are float and the older ones quantized, in a prefill just as in
/// decoding token by token. Scales are those of compressed-tensors' arithmetic, floats symmetric.
struct KvQuantizer {
  int bits = 8;  ///< 1 to 8 for integers; 4 (E2M1) or 8 (E4M3) for floats
  NumberType type = NumberType::integer;
  bool symmetric = false;
  /// token: each token and head alone. tensor: the static scale, or one dynamic scale per token over all heads.
  /// channel: each column alone, over `group` tokens from a multiple of `group` on; a group is quantized when all its
  /// tokens are older than the residual and is float until then, as in KIVI (arXiv 2402.02750).
  enum class Scale { tensor, token, channel } keys = Scale::token, values = Scale::token;
  /// Elements that share a scale: columns along the head for token (0: the whole head), tokens for channel (not 0).
  std::uint64_t group = 0;
  std::uint64_t residual = 0;
  float key_scale = 0;  ///< static per-tensor scales; 0: dynamic
  float value_scale = 0;
};

/// Keys and values of one sequence that is decoded token by token.
class KvCache;

struct ForwardOptions {
  ProductType product = ProductType::f32;
  int threads = 1;
  bool all_experts = false;  ///< GatherOp takes every token for every expert; unchosen ones count with weight 0
  bool packed = false;       ///< quantized weights stay packed (PackedLinear) where there is a kernel for them
};

/// The value buffers of one batch within one program. Buffers exist only where something was put or computed and are
/// released once no later operation reads them.
class Values {
 public:
  explicit Values(const Program& program) : data_(program.values.size()) {}
  std::vector<float>& at(ValueId id) { return data_[static_cast<std::size_t>(id)]; }
  const std::vector<float>& at(ValueId id) const { return data_[static_cast<std::size_t>(id)]; }

 private:
  std::vector<std::vector<float>> data_;
};

/// Executes one program. Weights of linears are prepared when first needed (or by prepare) and kept until released.
class ProgramRunner {
 public:
  ProgramRunner(const Program& program, const ModelWeights& weights, const ForwardOptions& options);
  ~ProgramRunner();
  ProgramRunner(ProgramRunner&&) noexcept;

  const Program& program() const;

  /// Operations [first, last) on a batch. Values that they read and that are not made by them must be in `values`.
  /// Keeps the values in `keep`, the program's output, and those that operations from `last` on read; frees others.
  /// Same bits for any thread count and any division into batches of whole sequences (products of one token excepted).
  /// With a cache the batch is one sequence that continues what the cache holds; its first_position, if given, must say
  /// so. Throws Error{usage} for ids or positions outside an embedding table.
  void run(std::size_t first, std::size_t last, const Batch& batch, Values& values, std::span<const ValueId> keep = {},
           KvCache* cache = nullptr);
  /// Rows of each expert's input within a value made by GatherOp, from the routing value: offsets [experts + 1], expert
  /// e has rows offsets[e] .. offsets[e + 1].
  static std::vector<std::uint64_t> expert_rows(const Program& program, const LinearOp& op, const Values& values,
                                                std::uint64_t tokens, bool all_experts);

  void prepare(std::size_t first, std::size_t last);  ///< loads the linears of operations [first, last)
  void release(std::size_t first, std::size_t last);  ///< frees them; they are read again when needed
  std::uint64_t prepared_bytes() const;

  void set_input_quantizer(std::string_view module, const InputQuantizer& quantizer);
  /// Throws Error{usage} for settings that mean nothing.
  void set_kv_quantizer(const KvQuantizer& quantizer);
  /// Called with keys and values as attention reads them, [tokens, kv_heads * head_dim], before they are quantized.
  void observe_kv(std::function<void(std::span<const float> keys, std::span<const float> values)> observer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class KvCache {
 public:
  KvCache();
  ~KvCache();
  std::uint64_t length() const;  ///< tokens held

 private:
  friend class ProgramRunner;
  struct State;
  std::unique_ptr<State> state_;
};

/// Quantizes rows of activations in place and back (fake quantization), as compressed-tensors does at run time:
/// token: one dynamic scale per row; group, tensor_group: per group_size columns (the last group may be short); tensor:
/// the static scale, or one for all of x. With args.outlier_threshold t, as LLM.int8() does (arXiv 2208.07339): columns
/// that hold a magnitude of at least t keep their values, and a row's scale follows from its magnitudes below t. A row
/// with a NaN or an infinity becomes NaN. Throws Error{unsupported} for other strategies.
void fake_quantize_rows(std::span<float> x, std::uint64_t rows, const InputQuantizer& quantizer, int threads);
/// Why inputs that are quantized like that cannot be computed, or an empty text.
std::string problem_of_inputs(const QuantArgs& inputs);

}  // namespace quant
