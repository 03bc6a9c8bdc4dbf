// What all evaluations over many sequences share: checks, groups that fit in memory, rows of logits in chunks.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "quant/evaluate.h"

namespace quant::evaluate {

using Sequences = std::span<const std::vector<std::int32_t>>;

/// Throws Error{usage} for what no model can be run on; `base` may be null.
void check_sequences(const LogitModel& model, const LogitModel* base, Sequences sequences);

/// One token whose logits are wanted.
struct WantedRow {
  std::uint64_t sequence = 0;  ///< among all sequences
  std::uint64_t token = 0;     ///< within it: its logits predict the next one
};

/// Called for each wanted row, by several threads at once, with the place of the row in the list of all wanted rows and
/// the logits of base (empty without one) and model; `scratch` belongs to the thread. Must not throw.
using RowFunction = std::function<void(std::uint64_t place, const WantedRow& row, std::span<const float> base,
                                       std::span<const float> model, std::vector<double>& scratch)>;

/// Runs both models on all sequences and calls `reduce` for each of `rows`, which are sorted by sequence.
void for_each_row(LogitModel& model, LogitModel* base, Sequences sequences, std::span<const WantedRow> rows,
                  const EvalOptions& options, const RowFunction& reduce);

/// Throws Error{numerical} that names the row, and the weights of `model` that are not finite.
[[noreturn]] void throw_not_finite(const LogitModel& model, const WantedRow& row, bool base);

/// Rows of logits that are held at once for such a vocabulary: 256, fewer where that takes more than 64 MB, 64 at
/// least.
std::uint64_t logit_rows(std::uint64_t vocabulary);
/// `threads`, or all processors for 0.
int thread_count(int threads);

}  // namespace quant::evaluate
