// Checkpoints whose tensors are in an HDF5 file.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "quant/checkpoint.h"

namespace quant::hdf5_container {

/// The file of tensors in a directory that was written by `quant convert`.
inline constexpr const char* kWeightsFile = "model.h5";

/// `location`: the directory, or the file itself. Tensors are decompressed when first viewed, into an unnamed file in
/// the system's directory for temporary files, which is mapped: opening reads no values, and memory does not grow with
/// the model. Throws Error{io} and Error{corrupt_file}.
std::unique_ptr<Checkpoint> open_hdf5(std::filesystem::path location, const std::filesystem::path& file,
                                      ModelConfig config, std::vector<std::filesystem::path> companions);

}  // namespace quant::hdf5_container
