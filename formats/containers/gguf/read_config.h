// config.json of GGUF files.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "containers/gguf/architectures.h"
#include "containers/gguf/header.h"

namespace quant::gguf {

/// What config.json would say of a model of that family, from the file's keys and tensors. `rope_factors`: divisors of
/// the rotary frequencies that the file holds, or empty.
nlohmann::ordered_json config_of_file(const Header& header, const Architecture& architecture,
                                      const std::vector<float>& rope_factors);

}  // namespace quant::gguf
