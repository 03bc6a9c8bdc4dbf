// The small files of a model directory that go with its weights.
#pragma once

#include <filesystem>
#include <vector>

namespace quant::io {

/// Files that a copy of the model needs unchanged, as paths that begin with `directory`, sorted. Which ones:
/// docs/safetensors.md.
std::vector<std::filesystem::path> find_companions(const std::filesystem::path& directory);

}  // namespace quant::io
