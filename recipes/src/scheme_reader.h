// The fields that say what a quantizing modifier quantizes how: scheme, config_groups, targets and observers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fields.h"

namespace quant::recipe_yaml {

/// Names of the fields that read_schemes reads.
const std::vector<std::string>& scheme_fields();

/// Whether a modifier's mapping says how linears are quantized.
bool has_scheme(const Node& body);

/// Reads kv_cache_scheme: static 8-bit numbers with a scale per layer for keys and one for values. Anything else is a
/// mistake that says why.
std::optional<QuantArgs> read_kv_cache(Mistakes& mistakes, const Node& body);

/// Reads the schemes of a modifier's mapping, completed and checked. `class_name` and `where` serve mistakes.
std::vector<RecipeScheme> read_schemes(Mistakes& mistakes, const Node& body, const std::string& class_name,
                                       Place where);

}  // namespace quant::recipe_yaml
