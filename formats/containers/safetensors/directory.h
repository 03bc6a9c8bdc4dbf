// What lies in a model directory: the files with weights.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "containers/safetensors/index.h"

namespace quant::safetensors {

struct WeightFiles {
  std::vector<std::filesystem::path> files;  ///< in the order of index->shards, if there is an index
  std::optional<ShardIndex> index;
  std::filesystem::path index_path;
};

/// Finds the weights of a model directory: model.safetensors.index.json with its shards, else model.safetensors, else
/// the only *.safetensors there. Throws Error{io} of kind NoWeights, MissingShard or MissingIndex, Error{corrupt_file}
/// of kind AmbiguousWeights, and the errors of parse_index.
WeightFiles find_weights(const std::filesystem::path& directory);

}  // namespace quant::safetensors
