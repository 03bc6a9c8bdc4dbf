// A model that is run on a few sequences again and again, each time from the linear that was changed on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quant/forward.h"
#include "quant/model_program.h"

namespace quant::sensitivity {

/// Whole sequences that pass a part of the model together, with the values of the part that is being run.
struct Chunk {
  Batch batch;
  std::vector<std::int32_t> ids;
  Values values;
};

struct ChainOptions {
  ForwardOptions forward;
  bool resident = true;            ///< weights stay prepared; else those of one part at a time
  bool logits = true;              ///< divergences are wanted
  std::uint64_t logit_memory = 0;  ///< bytes that the original's logits may take; else they are computed again
  std::function<void()> check_stop;
};

/// Parts are the blocks, then the head. The original's values stand before an operation of one part, which moves on
/// from the first to the last; from there a changed model is run to its end.
class ModelChain {
 public:
  /// `program` and `weights` must outlive it. Sequences of at least two tokens.
  ModelChain(const ModelProgram& program, const ModelWeights& weights,
             std::span<const std::vector<std::int32_t>> sequences, ChainOptions options);

  std::size_t parts() const { return runners_.size(); }
  const Program& part(std::size_t part) const { return runners_[part].program(); }

  /// Computes the original's predictions and goes to the first operation of the first part.
  void start();
  /// Moves the original's values to operation `op` of `part`, not before where they are.
  void advance(std::size_t part, std::size_t op);
  /// Weights of an operation of the part where the values are were changed, or are the original's again.
  void weights_changed(std::size_t op) { runners_[part_].release(op, op + 1); }
  /// The changed model's divergence from the original, KL(original || changed), of each sequence: the sum over its
  /// predictions in nats. Begins where the original's values are.
  std::vector<double> divergence();
  /// The part where the original's values are, and these values.
  const Program& current() const { return runners_[part_].program(); }
  const std::vector<Chunk>& chunks() const { return chunks_; }
  /// Output of one linear operation, the next one, of each chunk.
  std::vector<std::vector<float>> linear_output();

  const std::vector<std::uint64_t>& predictions() const { return predictions_; }  ///< of each sequence

 private:
  struct Row {
    std::size_t chunk = 0;
    std::uint64_t token = 0;  // of the chunk
    std::size_t sequence = 0;
  };

  void divide(std::span<const std::vector<std::int32_t>> sequences);
  void embed();
  void enter(std::size_t part, std::vector<std::vector<float>> states);
  std::vector<std::vector<float>> run_part(std::size_t part, std::vector<std::vector<float>> states);
  std::vector<std::vector<float>> to_head(std::vector<Values> values);
  std::vector<float> head_rows(ProgramRunner& head, const std::vector<std::vector<float>>& states, std::size_t first,
                               std::size_t count) const;
  std::span<const float> original_rows(std::size_t first, std::size_t count, std::vector<float>& buffer);
  std::vector<double> compare(const std::vector<std::vector<float>>& states);
  void release(std::size_t part);
  std::size_t next_slice(std::size_t first) const;

  const ModelProgram& program_;
  ChainOptions options_;
  ProgramRunner embeddings_;
  ProgramRunner original_head_;
  std::vector<ProgramRunner> runners_;
  std::vector<Chunk> chunks_;
  std::vector<Row> rows_;
  std::vector<std::uint64_t> predictions_;
  std::vector<std::vector<float>> final_states_;  // of the original, before the head
  std::vector<float> logits_;                     // of the original; empty: computed again each time
  std::size_t part_ = 0;
  std::size_t op_ = 0;
};

}  // namespace quant::sensitivity
