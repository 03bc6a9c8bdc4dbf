// Checks a finished checkpoint: can it be loaded, and does it hold what its config.json and its report say?
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/logical_tensors.h"

namespace quant {

struct Finding {
  enum class Severity { error, warning };
  Severity severity = Severity::error;
  /// Stable name of the check: "scale_not_finite". docs/commands.md lists them all.
  std::string check;
  std::string subject;  ///< tensor, module or file
  std::string message;  ///< one sentence
};

struct Verification {
  std::vector<Finding> findings;  ///< in the order of the checks
  std::string layout;             ///< of a quantized checkpoint, else empty
  std::uint64_t bytes = 0;        ///< of all tensors
  std::size_t files = 0;
  std::size_t tensors = 0;   ///< stored
  std::size_t linears = 0;   ///< quantized
  std::uint64_t scales = 0;  ///< read and found good or bad
  std::size_t caches = 0;    ///< attention modules with stored scales of keys and values
  bool report = false;       ///< a report.json was read

  std::size_t count(Finding::Severity severity) const;
  bool ok() const { return count(Finding::Severity::error) == 0; }
};

/// Reads all data of an opened checkpoint and collects everything that is wrong with it. Only what keeps it from being
/// opened at all is left to the caller: turn that Error into a finding with finding_of.
/// Throws Error{interrupted}, and Error{io} if a file that was opened cannot be read.
Verification verify_checkpoint(const Checkpoint& checkpoint, const Registry& registry, const ScanOptions& options = {});

class Error;
/// An error of a reader as a finding: its kind is the check's name.
Finding finding_of(const Error& error, const std::string& subject);

std::string_view to_string(Finding::Severity severity);

}  // namespace quant
