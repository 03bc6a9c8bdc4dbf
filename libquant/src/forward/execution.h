// One run of operations on one batch.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "forward/attention.h"
#include "forward/kv_cache.h"
#include "forward/prepared.h"
#include "forward/rotary.h"
#include "forward/routing.h"
#include "forward/sequences.h"

namespace quant::forward {

/// What a ProgramRunner holds between runs.
struct RunnerState {
  const Program& program;
  const ModelWeights& weights;
  ForwardOptions options;
  std::vector<std::size_t> last_reader;  ///< of each value: one past the last operation that reads it; 0: none
  std::vector<PreparedOp> prepared;      ///< by operation
  std::map<std::string, InputQuantizer, std::less<>> input_quantizers;
  std::optional<KvQuantizer> kv_quantizer;
  std::function<void(std::span<const float>, std::span<const float>)> kv_observer;
  RotaryTables rotary;

  RunnerState(const Program& its_program, const ModelWeights& its_weights, const ForwardOptions& its_options);
  const PreparedOp& prepare(std::size_t op);
};

/// Buffers that are free again, for values of about the same size.
class BufferPool {
 public:
  std::vector<float> take(std::uint64_t size);
  void give(std::vector<float> buffer);

 private:
  std::vector<std::vector<float>> free_;
};

class Execution {
 public:
  Execution(RunnerState& state, const Batch& batch, Values& values, std::span<const ValueId> keep, KvLayers* cache);
  void run(std::size_t first, std::size_t last);

 private:
  void execute(const NormOp& op);
  void execute(const LinearOp& op);
  void execute(const SliceOp& op);
  void execute(const RotaryOp& op);
  void execute(const AttentionOp& op);
  void execute(const ActivationOp& op);
  void execute(const MultiplyOp& op);
  void execute(const AddOp& op);
  void execute(const ScaleOp& op);
  void execute(const SoftcapOp& op);
  void execute(const RouteOp& op);
  void execute(const GatherOp& op);
  void execute(const CombineOp& op);
  void execute(const EmbeddingOp& op);

  std::uint64_t width(ValueId id) const;
  const std::string& name(ValueId id) const;
  /// The value, which must be there in whole rows.
  ConstFloats input(ValueId id) const;
  /// The same, of rows_per_token 1: one row per token of the batch.
  ConstFloats token_input(ValueId id) const;
  /// A new value of `rows` rows; contents are unspecified.
  Floats output(ValueId id, std::uint64_t rows);
  /// A new value as large as `in`: in `in`'s own buffer if nothing else reads that.
  Floats output_over(ValueId id, ValueId in);
  void same_size(ValueId a, ValueId b) const;
  bool dies(ValueId id) const;
  void release_inputs(const Op& op);

  const RouteIndex& routes(ValueId routing);
  ConstFloats quantized_input(const LinearOp& op, ConstFloats in);
  void quantize_rows(const InputQuantizer& quantizer, Floats x, std::uint64_t first, std::uint64_t end,
                     const RouteIndex* index);
  std::vector<std::uint64_t> segment_ends(std::uint64_t first, std::uint64_t end, const RouteIndex* index) const;
  bool run_integers(const LinearOp& op, const PreparedOp& prepared);
  void run_experts(const LinearOp& op, const PreparedOp& prepared, ConstFloats in, Floats out);
  std::vector<AttentionSequence> attention_sequences(const AttentionOp& op, std::vector<KvLayer>& layers);
  void locate_sequences(const Batch& batch);
  std::uint64_t cached_position() const;

  RunnerState& state_;
  const Batch& batch_;
  Values& values_;
  KvLayers* cache_;
  int threads_;
  std::vector<char> kept_;  // by value
  Sequences sequences_;
  std::uint64_t tokens_ = 0;
  std::size_t current_ = 0;  // operation
  BufferPool pool_;
  std::map<ValueId, RouteIndex> routes_;
  struct {
    ValueId id = -1;
    std::vector<const InputQuantizer*> quantizers;
    std::vector<float> values;
  } quantized_;  // the last quantized input
};

}  // namespace quant::forward
