#include "plan/algorithm_set.h"

#include "plain_quantizer.h"
#include "quant/outliers.h"

namespace quant {

ModifierAlgorithm create_algorithm(const RecipeModifier& modifier, const Registry& registry) {
  ModifierAlgorithm result;
  const AlgorithmEntry* entry = registry.modifier(modifier.type);
  if (entry == nullptr) return result;
  result.own = entry->create(modifier.parameters);
  result.quantizer = dynamic_cast<const Quantizer*>(result.own.get());
  if (result.quantizer != nullptr) {
    result.coder = with_sparse_part(*result.quantizer);
    result.quantizer = result.coder.get();
  }
  result.sparsifier = dynamic_cast<const Sparsifier*>(result.own.get());
  if (result.sparsifier != nullptr) {
    result.coder = make_plain_quantizer();
    result.quantizer = result.coder.get();
  }
  result.calibrated = dynamic_cast<const CalibratedQuantizer*>(result.own.get());
  result.transform = dynamic_cast<const Transform*>(result.own.get());
  return result;
}

std::vector<ModifierAlgorithm> create_algorithms(const Recipe& recipe, const Registry& registry) {
  std::vector<ModifierAlgorithm> result;
  for (const RecipeModifier& modifier : recipe.modifiers) result.push_back(create_algorithm(modifier, registry));
  return result;
}

}  // namespace quant
