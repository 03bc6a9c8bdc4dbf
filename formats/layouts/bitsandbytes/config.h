// config.json of models of bitsandbytes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::bitsandbytes {

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore);
/// As Layout::contradictions.
std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups);
/// quant_method bitsandbytes with load_in_4bit or load_in_8bit.
bool says_bitsandbytes(const ModelConfig& model);
/// llm_int8_threshold, 6 where it is missing, of a model that says load_in_8bit. Throws Error{corrupt_file} for one
/// that is no number from 0 to 1000000.
std::optional<double> int8_threshold(const ModelConfig& model);

}  // namespace quant::bitsandbytes
