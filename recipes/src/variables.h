// Variables of a recipe: `args:` gives them, `$name` and `${name}` use them, the user's settings come first.
#pragma once

#include <string>
#include <string_view>

#include "mistakes.h"
#include "quant/recipe_yaml.h"
#include "yaml_tree.h"

namespace quant::recipe_yaml {

/// Replaces the variables in all values of `document` (not in keys), which was read from `text`. Returns the text with
/// the values put in: reading it gives the same tree, without any variable. A value that is one variable and nothing
/// else takes the type that the variable's value looks like.
std::string substitute_variables(Document& document, std::string_view text, const RecipeVariables& settings,
                                 Mistakes& mistakes);

}  // namespace quant::recipe_yaml
