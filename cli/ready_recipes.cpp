#include "ready_recipes.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "quant/error.h"
#include "quant/names.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

std::string first_comment(const fs::path& file) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::size_t start = line.find_first_not_of(" \t");
    if (start == std::string::npos || line[start] != '#') continue;
    const std::size_t text = line.find_first_not_of("# \t", start);
    if (text != std::string::npos) return line.substr(text, line.find_last_not_of(" \t\r") + 1 - text);
  }
  return {};
}

bool is_recipe_file(const fs::path& file) { return file.extension() == ".yaml" || file.extension() == ".yml"; }

}  // namespace

std::vector<fs::path> recipe_directories() {
  std::vector<fs::path> directories;
  if (const char* given = std::getenv("QUANT_RECIPES"); given != nullptr && *given != '\0')
    directories.emplace_back(given);
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) directories.push_back(program.parent_path().parent_path() / "share/quant/recipes");
  directories.emplace_back(QUANT_SOURCE_RECIPES);
  return directories;
}

std::vector<ReadyRecipe> ready_recipes() {
  std::map<std::string, ReadyRecipe> found;
  for (const fs::path& directory : recipe_directories()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory, error)) {
      if (!is_recipe_file(entry.path()) || !entry.is_regular_file(error)) continue;
      const std::string name = entry.path().stem().string();
      if (!found.contains(name)) found[name] = {name, entry.path(), first_comment(entry.path())};
    }
  }
  std::vector<ReadyRecipe> recipes;
  for (auto& [name, recipe] : found) recipes.push_back(std::move(recipe));
  return recipes;
}

fs::path find_recipe(const std::string& name_or_path) {
  std::error_code error;
  if (fs::is_regular_file(name_or_path, error)) return name_or_path;
  if (fs::is_directory(name_or_path, error)) {
    throw Error(ErrorCode::usage, fmt::format("the recipe {} is a directory", name_or_path), "name a .yaml file in it");
  }
  std::vector<std::string> names;
  for (const ReadyRecipe& recipe : ready_recipes()) {
    if (recipe.name == name_or_path) return recipe.file;
    names.push_back(recipe.name);
  }
  const bool looks_like_path = name_or_path.find('/') != std::string::npos || fs::path(name_or_path).has_extension();
  if (looks_like_path) {
    throw Error(ErrorCode::io, fmt::format("there is no recipe file {}", name_or_path),
                "'quant recipes' lists the ready recipes");
  }
  const std::string nearest = nearest_name(name_or_path, names);
  throw Error(ErrorCode::usage, fmt::format("there is no recipe file and no ready recipe '{}'", name_or_path),
              nearest.empty() ? "'quant recipes' lists the ready recipes" : fmt::format("did you mean '{}'?", nearest),
              "UnknownRecipe");
}

std::string read_recipe_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw Error(ErrorCode::io, fmt::format("cannot read {}", file.string()));
  return text.str();
}

}  // namespace quant::cli
