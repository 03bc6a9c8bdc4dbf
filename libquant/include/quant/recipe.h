// A compression recipe as plain data. The YAML reader is in quant/recipe_yaml.h (library quant::recipes).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quant/registry.h"
#include "quant/scheme.h"

namespace quant {

/// A place in a recipe file. Lines and columns count from 1; 0 means unknown.
struct SourceLocation {
  std::string file;
  int line = 0;
  int column = 0;
  std::string to_string() const;  ///< "w4.yaml:3:7"
};

/// A target or ignore entry: an exact module name, "re:<regex>" (matched from the start of the name, as Python's
/// re.match), or a class name ("Linear", "Embedding").
struct Pattern {
  std::string text;
  SourceLocation where;
};

struct RecipeScheme {
  std::string name;    ///< "group_0", or the name in config_groups
  std::string preset;  ///< the preset's name if it came from one, else empty
  Scheme scheme;       ///< checked and completed; scheme.targets repeats the texts of `targets`
  std::vector<Pattern> targets;
  SourceLocation where;
};

struct RecipeModifier {
  std::string type;   ///< "QuantizationModifier"
  std::string stage;  ///< "default_stage"
  std::string group;  ///< "default_modifiers"
  SourceLocation where;
  std::vector<RecipeScheme> schemes;  ///< in order; empty for modifiers that quantize no linears
  std::vector<Pattern> targets;       ///< of modifiers that prune
  std::vector<Pattern> ignore;
  std::optional<QuantArgs> kv_cache;  ///< of kv_cache_scheme, checked: static, per tensor, int8 or 8-bit float
  bool bypass_divisibility_checks = false;
  Parameters parameters;  ///< the algorithm's own
};

struct Recipe {
  std::string name;  ///< file name without extension
  std::string text;  ///< with variables substituted: what is stored beside the output
  std::vector<RecipeModifier> modifiers;
};

}  // namespace quant
