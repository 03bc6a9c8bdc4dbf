// What file names say about the data and the model that a command is given.
#pragma once

#include <filesystem>

namespace quant {

/// Whether `file` holds token ids (.npy, .h5, .hdf5 in any case) rather than text that needs a tokenizer.
bool holds_token_ids(const std::filesystem::path& file);

/// Where the files beside a model's weights (tokenizer.json) are: `model` itself, or the directory of one file.
std::filesystem::path model_directory(const std::filesystem::path& model);

}  // namespace quant
