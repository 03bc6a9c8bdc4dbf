// config.json of a compressed model.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::compressed_tensors {

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore, const std::optional<QuantArgs>& kv_cache);

}  // namespace quant::compressed_tensors
