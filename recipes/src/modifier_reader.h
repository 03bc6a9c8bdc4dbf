// One modifier: `ClassName: {...}`.
#pragma once

#include <string>
#include <vector>

#include "fields.h"

namespace quant::recipe_yaml {

/// Reads the modifier of `entry`. Nothing if its class is not in the registry (then there is a mistake). Two for a
/// transform that carries the scheme of the quantizer after it, as AWQModifier did in old recipes.
std::vector<RecipeModifier> read_modifier(Mistakes& mistakes, const Registry& registry, const Node::Entry& entry);

/// Adds a mistake for each transform that a quantizing modifier must follow where none does.
void check_followed(Mistakes& mistakes, const Registry& registry, const std::vector<RecipeModifier>& modifiers);

/// True if `name` is a class of this version or of llm-compressor.
bool is_modifier_class(const Registry& registry, std::string_view name);

}  // namespace quant::recipe_yaml
