// Recipes that change a model's shapes.
#include <fmt/format.h>

#include "quant/error.h"
#include "quant/structured.h"

namespace quant {
namespace {

// The modifier's algorithm if it changes shapes, else null.
std::unique_ptr<Algorithm> restructurer(const RecipeModifier& modifier, const Registry& registry) {
  const AlgorithmEntry* entry = registry.modifier(modifier.type);
  if (entry == nullptr || !entry->create) return nullptr;
  std::unique_ptr<Algorithm> algorithm = entry->create(modifier.parameters);
  return algorithm->role() == Role::restructure ? std::move(algorithm) : nullptr;
}

}  // namespace

bool is_restructuring(const Recipe& recipe, const Registry& registry) {
  for (const RecipeModifier& modifier : recipe.modifiers) {
    if (restructurer(modifier, registry) != nullptr) return true;
  }
  return false;
}

StructuredOptions structured_options(const Recipe& recipe, const Registry& registry) {
  for (const RecipeModifier& modifier : recipe.modifiers) {
    const auto algorithm = restructurer(modifier, registry);
    if (algorithm == nullptr) continue;
    if (recipe.modifiers.size() > 1) {
      throw Error(ErrorCode::recipe,
                  fmt::format("{}: {} changes the shapes of the model and must stand alone in its recipe",
                              modifier.where.to_string(), modifier.type),
                  "give the other modifiers a recipe of their own and run it on the result");
    }
    StructuredOptions options = static_cast<const Restructurer&>(*algorithm).options();
    options.ignore = modifier.ignore;
    return options;
  }
  throw Error(ErrorCode::internal, "the recipe has no modifier that changes shapes");
}

}  // namespace quant
