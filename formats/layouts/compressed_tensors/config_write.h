// config.json of a compressed model.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::compressed_tensors {

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore, const std::optional<QuantArgs>& kv_cache);

/// The same text with kv_cache_scheme set.
std::string with_kv_cache(const std::string& config_json, const QuantArgs& args);

}  // namespace quant::compressed_tensors
