// Moves factors between a producer and its readers, so that the model's function stays.
#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "plan/smoothing_sites.h"
#include "quant/forward.h"

namespace quant {

/// The weights of a block while transforms work on them.
struct FoldTarget {
  const Program* program = nullptr;
  ModelWeights* weights = nullptr;
  ModelWeights* reference = nullptr;                 ///< of the unquantized model that runs beside, or null
  const std::set<std::string>* quantized = nullptr;  ///< tensors whose weights will be coded: never stored as floats
  std::set<std::string>* changed = nullptr;          ///< receives the tensors that must be stored with new values
  int threads = 1;
};

/// Divides the site's producer by `factors` [cols] and multiplies its readers' columns. What is stored as floats is
/// rounded to its type first; where the producer is a norm, the readers' factors make up for that rounding. Returns the
/// factors that the readers got, or nothing (and changes nothing) if a stored value would leave its type's range.
std::vector<float> fold(const FoldTarget& target, const SmoothingSite& site, std::span<const float> factors);

}  // namespace quant
