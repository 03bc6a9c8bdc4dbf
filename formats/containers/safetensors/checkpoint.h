// Checkpoints whose tensors are in safetensors files.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "quant/checkpoint.h"

namespace quant::safetensors {

/// A model directory: its weights as find_weights finds them. Headers and index are checked, values mapped. Throws
/// Error{io} and Error{corrupt_file}.
std::unique_ptr<Checkpoint> open_directory(const std::filesystem::path& directory, ModelConfig config,
                                           std::vector<std::filesystem::path> companions);
/// One file of tensors.
std::unique_ptr<Checkpoint> open_single_file(const std::filesystem::path& file);

}  // namespace quant::safetensors
