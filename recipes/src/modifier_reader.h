// One modifier: `ClassName: {...}`.
#pragma once

#include <optional>
#include <string>

#include "fields.h"

namespace quant::recipe_yaml {

/// Reads the modifier of `entry`. Nothing if its class is not in the registry (then there is a mistake).
std::optional<RecipeModifier> read_modifier(Mistakes& mistakes, const Registry& registry, const Node::Entry& entry);

/// True if `name` is a class of this version or of llm-compressor.
bool is_modifier_class(const Registry& registry, std::string_view name);

}  // namespace quant::recipe_yaml
