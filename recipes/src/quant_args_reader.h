// QuantizationArgs: the numbers of weights or activations.
#pragma once

#include <optional>
#include <string>

#include "fields.h"
#include "quant/scheme.h"

namespace quant::recipe_yaml {

/// Arguments as written, before they are completed and checked.
struct ArgsDraft {
  QuantArgs args;
  bool strategy_given = false;
  bool sound = true;           ///< false if reading found mistakes: checking would only repeat them
  const Node* node = nullptr;  ///< where they are written; null for a preset's
  Place where;                 ///< for mistakes in what is not written
  std::string owner;           ///< "weights"
};

/// Reads one mapping. `owner` names it in mistakes.
ArgsDraft read_quant_args(Mistakes& mistakes, const Node& node, const std::string& owner);

/// Completes the arguments and adds a mistake, placed at the field, for every rule that they break.
QuantArgs finish_quant_args(Mistakes& mistakes, ArgsDraft& draft);

}  // namespace quant::recipe_yaml
