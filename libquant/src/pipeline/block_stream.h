// Moves all tokens of a calibration set through one program, in chunks, from one place to the next.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "pipeline/activation_store.h"
#include "plan/calibration_work.h"
#include "quant/forward.h"

namespace quant {

/// What one pass over all chunks has in common, whoever makes it.
struct StreamContext {
  const CalibrationWork* work = nullptr;
  ForwardOptions forward;
  ActivationBudget* budget = nullptr;
  const std::atomic<bool>* stop = nullptr;
  std::function<void(double operations)> progress;  ///< after every chunk
};

/// One model (the quantized or the unquantized one) on its way through one program. The values that are live at the
/// present place are kept between passes.
class BlockStream {
 public:
  /// `input`: the residual stream of every chunk, or an empty store for the embeddings. `weights` must outlive it.
  BlockStream(const StreamContext& context, const Program& program, const ModelWeights& weights, ActivationStore input);

  ProgramRunner& runner() { return runner_; }
  /// Loads a chunk and runs it from the present place to `to`, where `live` are kept for later passes, and on to
  /// `until`, where the values `wanted` are returned. The last chunk moves the place.
  Values advance(std::size_t chunk, std::size_t to, std::span<const ValueId> live, std::size_t until,
                 std::span<const ValueId> wanted);
  /// After all chunks were advanced: the place is now `to`; frees what is behind it.
  void arrive(std::size_t to, std::span<const ValueId> live);
  /// The values that are kept now; the stream is of no further use.
  ActivationStore release() { return std::move(store_); }
  std::size_t position() const { return position_; }

 private:
  Batch batch_of(std::size_t chunk);
  void load(std::size_t chunk, bool moves, Values& values);
  std::vector<float> pack(std::size_t chunk, std::span<const ValueId> live, const Values& values);

  const StreamContext& context_;
  const Program& program_;
  ProgramRunner runner_;
  ActivationStore store_;
  ActivationStore next_;
  std::size_t position_ = 0;
  std::vector<ValueId> live_;
  std::vector<std::vector<std::size_t>> sizes_;  // of each live value, per chunk
  std::vector<std::vector<std::size_t>> next_sizes_;
  std::vector<std::int32_t> ids_;
};

/// Throws Error{interrupted} if the run was told to stop.
void leave_if_stopped(const std::atomic<bool>* stop);

}  // namespace quant
