// The quantized linears of GPTQ checkpoints, and what their files say wrongly of themselves.
#pragma once

#include "layouts/gptq/config.h"

namespace quant::gptq_layout {

/// As Layout::find_linears. Reads the zero points: constant ones tell symmetric weights and, where config.json says
/// that they are symmetric, also the version, which checkpoints in use say wrongly.
std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint);
/// As Layout::remarks.
std::vector<std::string> remarks(const ModelConfig& model, const std::vector<StoredLinear>& linears);

}  // namespace quant::gptq_layout
