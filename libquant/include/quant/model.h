// The modules of a checkpoint, found from tensor names and shapes alone: works for any architecture.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quant/checkpoint.h"

namespace quant {

/// A module that owns a weight. `class_name` is what recipes call it: "Linear", "Embedding", "Conv1D" (GPT-2's
/// transposed linear), "Norm", or "Other".
struct Module {
  std::string name;  ///< "model.layers.0.mlp.up_proj"
  std::string class_name;
  const TensorInfo* weight = nullptr;  ///< null for a tied lm_head, which has no tensor of its own
};

struct ModelOutline {
  std::vector<Module> modules;            ///< in the order of the checkpoint's tensors, sorted naturally by name
  std::vector<const TensorInfo*> others;  ///< tensors that are no module's weight: biases, buffers, 3-D experts, ...
  std::uint64_t parameters = 0;           ///< elements of all tensors
};
ModelOutline outline_model(const Checkpoint& checkpoint);

/// True for the names of embeddings: "model.embed_tokens", "transformer.wte".
bool is_embedding(std::string_view module);

/// Compares names with numbers by value: layers.2 before layers.10.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace quant
