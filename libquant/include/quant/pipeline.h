// Executes a plan: streams weights through algorithms into output files that appear only when complete.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "quant/plan.h"
#include "quant/report.h"

namespace quant {

struct RunProgress {
  std::uint64_t bytes_done = 0;  ///< source bytes of finished tensors
  std::uint64_t bytes_total = 0;
  std::size_t tensors_done = 0;
  std::size_t tensors_total = 0;
  std::uint64_t bytes_resumed = 0;  ///< of bytes_done, finished by an earlier run
  double seconds = 0;
  std::string current;  ///< module last worked on
  /// Calibrated runs only, else 0: what is left is better told by operations than by bytes.
  double operations_done = 0;
  double operations_total = 0;
  double operations_resumed = 0;  ///< of operations_done, by an earlier run
  std::size_t block = 0;          ///< in work, counted from 1
  std::size_t blocks = 0;
};

struct RunOptions {
  std::filesystem::path output;                      ///< must not exist
  bool resume = false;                               ///< continue "<output>.partial"
  bool overwrite_partial = false;                    ///< discard "<output>.partial" instead
  std::function<void(const RunProgress&)> progress;  ///< called at most ten times a second, from one thread at a time
  const std::atomic<bool>* stop =
      nullptr;  ///< set to true: finish the pieces in work, keep them, throw Error{interrupted}
};

/// Runs a plan without problems (else Error{usage}). Writes into "<output>.partial" and renames at the end, so `output`
/// exists only complete. An interrupted or failed run leaves the partial directory, which `resume` completes to the
/// same bytes (clock and machine entries of the report aside).
RunReport run_plan(const Plan& plan, const RunOptions& options);

}  // namespace quant
