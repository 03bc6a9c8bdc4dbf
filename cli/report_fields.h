// What `quant run` and `quant report` both say of a run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quant/report.h"

namespace quant::cli {

/// Errors of weights and of layers' outputs, and which linears fell back; what there is of these.
std::vector<std::pair<std::string, std::string>> error_fields(const RunReport& report);

}  // namespace quant::cli
