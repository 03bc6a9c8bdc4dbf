// config.json of a compressed model.
#pragma once

#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::compressed_tensors {

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore);

}  // namespace quant::compressed_tensors
