// Reads recipes in the YAML language of llm-compressor, strictly. Library quant::recipes.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/recipe.h"

namespace quant {

/// Variables given by the user, overriding the recipe's `args`.
using RecipeVariables = std::map<std::string, std::string>;

/// Reads recipe text. `file` is used in messages. All mistakes are collected: the Error{recipe} that is thrown has one
/// line for each, with file, line, column and the nearest valid name.
Recipe parse_recipe(std::string_view text, const std::string& file, const RecipeVariables& variables,
                    const Registry& registry);
/// Reads a file (.yaml, .yml, .json). Errors as parse_recipe, and Error{io}.
Recipe load_recipe(const std::filesystem::path& path, const RecipeVariables& variables, const Registry& registry);

/// The text of `recipe` with `schemes` (names, schemes and targets) as the config_groups of its modifier number
/// `modifier` instead of that modifier's own schemes; all else stays, comments and layout of the text aside. Lines of
/// `comment` stand at its head. Reading it gives these schemes, field by field.
std::string with_schemes(const Recipe& recipe, std::size_t modifier, const std::vector<RecipeScheme>& schemes,
                         const std::string& comment, const Registry& registry);
/// Likewise with the sparsity of each linear, by its name, in the place of the modifier's own sparsity and profile.
std::string with_sparsities(const Recipe& recipe, std::size_t modifier,
                            const std::vector<std::pair<std::string, double>>& sparsities, const std::string& comment,
                            const Registry& registry);

}  // namespace quant
