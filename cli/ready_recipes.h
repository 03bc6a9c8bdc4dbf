// Recipes that come with the program, by name.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quant::cli {

struct ReadyRecipe {
  std::string name;  ///< file name without extension
  std::filesystem::path file;
  std::string summary;  ///< its first comment line
};

/// Folders that are searched, in this order: $QUANT_RECIPES, <program>/../share/quant/recipes, the source tree's.
std::vector<std::filesystem::path> recipe_directories();
/// All ready recipes by name; the first folder that has a name wins.
std::vector<ReadyRecipe> ready_recipes();
/// The file of a path or of a ready recipe's name. Throws Error{usage} with the nearest name, or Error{io} for what
/// looks like a path.
std::filesystem::path find_recipe(const std::string& name_or_path);
/// Whole content. Throws Error{io}.
std::string read_recipe_text(const std::filesystem::path& file);

}  // namespace quant::cli
