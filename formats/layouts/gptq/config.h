// config.json and quantize_config.json of GPTQ models.
#pragma once

#include <string>
#include <vector>

#include "layouts/gptq/parts.h"

namespace quant::gptq_layout {

/// What the quantization_config of a checkpoint says, be it right or wrong.
struct Label {
  int bits = 4;
  std::int64_t group_size = 128;
  bool symmetric = true;
  Version version = Version::v1;
  bool whole_words = false;  ///< ZeroRule::whole_words: written by GPTQModel
};
/// Throws Error{corrupt_file} naming a key of the wrong kind, Error{unsupported} for other packings (marlin, gptq_p).
Label read_label(const ModelConfig& model);
bool says_gptq(const ModelConfig& model);

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore);
/// As Layout::contradictions.
std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups);

}  // namespace quant::gptq_layout
