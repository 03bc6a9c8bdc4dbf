// The fields that say what a quantizing modifier quantizes how: scheme, config_groups, targets and observers.
#pragma once

#include <string>
#include <vector>

#include "fields.h"

namespace quant::recipe_yaml {

/// Names of the fields that read_schemes reads.
const std::vector<std::string>& scheme_fields();

/// Reads the schemes of a modifier's mapping, completed and checked. `class_name` and `where` serve mistakes.
std::vector<RecipeScheme> read_schemes(Mistakes& mistakes, const Node& body, const std::string& class_name,
                                       Place where);

}  // namespace quant::recipe_yaml
