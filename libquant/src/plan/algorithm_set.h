// The algorithm object of each modifier of a recipe, by what it can do.
#pragma once

#include <memory>
#include <vector>

#include "quant/algorithm.h"
#include "quant/calibrated.h"
#include "quant/recipe.h"
#include "quant/sparsify.h"

namespace quant {

/// One modifier's algorithm; null where it is not of that kind.
struct ModifierAlgorithm {
  std::unique_ptr<Algorithm> own;
  /// Own, with a sparse part beside it where a scheme asks for one; of a sparsifier: what keeps plain numbers.
  std::unique_ptr<Quantizer> coder;
  const Quantizer* quantizer = nullptr;
  const CalibratedQuantizer* calibrated = nullptr;
  const Transform* transform = nullptr;
  const Sparsifier* sparsifier = nullptr;
};

/// Null members for a modifier that the registry does not know. Throws what the algorithm's creation throws.
ModifierAlgorithm create_algorithm(const RecipeModifier& modifier, const Registry& registry);

/// One per modifier of a recipe whose plan has no problems.
std::vector<ModifierAlgorithm> create_algorithms(const Recipe& recipe, const Registry& registry);

}  // namespace quant
