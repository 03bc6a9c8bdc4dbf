// Opening checkpoints. Library quant::formats.
#pragma once

#include <filesystem>
#include <memory>

#include "quant/checkpoint.h"

namespace quant {

/// Opens a Hugging Face style directory (config.json; model.safetensors, or shards with model.safetensors.index.json)
/// or a single .safetensors file; or what `quant convert` made, a directory with model.h5, or such a file alone; or a
/// GGUF file (docs/gguf.md), or llama.cpp's importance of columns (a GGUF file, or *.dat and *.imatrix of the older
/// form). Every header is checked before this returns; no tensor data is read. Throws Error{corrupt_file}, kind as in
/// docs/safetensors.md, naming file and tensor; Error{io} for missing files.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path);

}  // namespace quant
