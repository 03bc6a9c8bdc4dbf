// GGUF files as checkpoints: tensors under the names that their model has in Transformers, where the family is known.
#pragma once

#include <filesystem>
#include <memory>

#include "quant/checkpoint.h"

namespace quant::gguf {

/// True for a regular file that begins with "GGUF".
bool is_gguf_file(const std::filesystem::path& file);

/// Tensors of blocks, and matrices whose rows are in another order than the model's, are U8 [rows, bytes of a row];
/// the layout "gguf" reads them by what quantization_config says. config.json is made of the file's keys. A file of
/// importance (general.type "imatrix") has one F32 tensor [columns] for each weight instead: mean squares of inputs.
std::unique_ptr<Checkpoint> open_gguf(const std::filesystem::path& file);

}  // namespace quant::gguf
