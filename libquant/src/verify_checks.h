// The parts of verify_checkpoint; each adds its findings.
#pragma once

#include <string>
#include <vector>

#include "quant/verify.h"

namespace quant::verify {

struct Context {
  const Checkpoint& checkpoint;
  const Registry& registry;
  const ScanOptions& options;
  Verification& result;

  void error(std::string check, std::string subject, std::string message) const;
  void warning(std::string check, std::string subject, std::string message) const;
};

/// quantization_config against the linears that are and are not quantized.
void check_config(const Context& context, const std::vector<StoredLinear>& linears);
/// report.json and report.h5 against the tensors. A report is expected where `linears` is not empty.
void check_report(const Context& context, const std::vector<StoredLinear>& linears);

}  // namespace quant::verify
