// The config.json of the smaller model.
#pragma once

#include <string>
#include <vector>

#include "structured/axes.h"

namespace quant::structured {

/// The text with the sizes of what is kept, in the places and under the names that the family has for them. `bias`:
/// keys ("attention_bias") that become true. What the family's config cannot say is left to check_meaning to find.
std::string rewrite_config(const std::string& text, const ModelAxes& axes, const ProgramModel& model,
                           const KeptUnits& kept, const std::vector<std::string>& bias);

/// Whether the family's configuration class in Transformers takes the number of heads beside the hidden size. Where it
/// does not, rewrite_config makes a Mistral of a Llama without biases, and throws Error{unsupported} for others.
bool heads_divide(const ProgramModel& model, const KeptUnits& kept);

/// Throws Error{unsupported} naming the operation if the kept layers would not mean the same in the model that
/// `after` describes: another head size, scale, window, rotation, factor of embeddings.
void check_meaning(const ModelProgram& before, const ModelProgram& after, const KeptUnits& kept,
                   const std::string& family);

}  // namespace quant::structured
