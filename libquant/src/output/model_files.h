// Names of a model's files, and the index of its shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace quant {

/// "model.safetensors" for one file, else "model-00001-of-00003.safetensors"; `shard` counts from 0.
std::string shard_file_name(std::size_t shard, std::size_t count, std::string_view extension);
/// "model.safetensors.index.json".
std::string index_file_name(std::string_view extension);
/// The index's text: where each tensor is, and the bytes of all tensors.
std::string index_text(const std::map<std::string, std::string>& file_of_tensor, std::uint64_t total_bytes);

/// True for files that describe how a checkpoint was quantized and would be wrong beside another form of it: reports,
/// the recipe, and the files of GPTQ and AWQ that say what config.json says.
bool belongs_to_quantization(const std::filesystem::path& file);

}  // namespace quant
