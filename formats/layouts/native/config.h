// What config.json says about a checkpoint in the layout "libquant".
#pragma once

#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::native {

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore);
bool says_libquant(const ModelConfig& model);

/// A linear that config.json names.
struct ListedLinear {
  LinearShape shape;
  QuantArgs args;
};
/// Throws Error{corrupt_file} naming the key that is wrong, Error{unsupported} for a newer version.
std::vector<ListedLinear> listed_linears(const ModelConfig& model);

}  // namespace quant::native
