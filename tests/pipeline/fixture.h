// What tests of plans and runs need: registries, a small model, a recipe.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "quant/open.h"
#include "quant/pipeline.h"
#include "quant/plan.h"
#include "quant/recipe_yaml.h"
#include "quant/registry.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace quant::test {

inline const Registry& builtin_registry() {
  static const Registry registry = [] {
    Registry all;
    register_builtin_algorithms(all);
    register_builtin_formats(all);
    return all;
  }();
  return registry;
}

inline Recipe recipe_of(const std::string& modifier_fields) {
  std::string text = "default_stage:\n  default_modifiers:\n    QuantizationModifier:\n";
  text += "      " + modifier_fields + "\n";
  return parse_recipe(text, "test.yaml", {}, builtin_registry());
}

/// Every file below a directory with its bytes; the reports, which carry times, are left out.
inline std::map<std::string, std::string> model_files(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    const std::string name = entry.path().lexically_relative(directory).string();
    if (entry.is_regular_file() && !name.starts_with("report.")) files[name] = read_file(entry.path());
  }
  return files;
}

}  // namespace quant::test
