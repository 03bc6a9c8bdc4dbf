// Which container a path leads to.
#include "quant/open.h"

#include <fmt/format.h>

#include <system_error>

#include "containers/gguf/checkpoint.h"
#include "containers/gguf/imatrix.h"
#include "containers/hdf5/checkpoint.h"
#include "containers/io/companions.h"
#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "containers/safetensors/checkpoint.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxConfigBytes = 64ULL * 1024 * 1024;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
}

// Old writers of GPTQ and AWQ said how weights are quantized in a file of its own, and nowhere else.
void read_quantization_beside(const fs::path& directory, ModelConfig& config) {
  for (const auto& [name, method] : {std::pair{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}}) {
    const fs::path path = directory / name;
    if (!config.quantization_config.empty() || !is_there(path)) continue;
    const std::string text = io::read_text_file(path, kMaxConfigBytes, "InvalidConfig");
    config.quantization_config = parse_quantization_beside(text, path, method);
  }
}

ModelConfig read_config(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  ModelConfig config;
  if (is_there(path)) config = parse_model_config(io::read_text_file(path, kMaxConfigBytes, "InvalidConfig"), path);
  read_quantization_beside(directory, config);
  return config;
}

// A directory of `quant convert`: HDF5 and no safetensors.
bool has_hdf5_weights(const fs::path& directory) {
  std::error_code error;
  return fs::is_regular_file(directory / hdf5_container::kWeightsFile, error) &&
         !fs::exists(directory / "model.safetensors", error) &&
         !fs::exists(directory / "model.safetensors.index.json", error);
}

std::unique_ptr<Checkpoint> open_directory(const fs::path& directory) {
  ModelConfig config = read_config(directory);
  std::vector<fs::path> companions = io::find_companions(directory);
  if (!has_hdf5_weights(directory)) {
    return safetensors::open_directory(directory, std::move(config), std::move(companions));
  }
  return hdf5_container::open_hdf5(directory, directory / hdf5_container::kWeightsFile, std::move(config),
                                   std::move(companions));
}

std::unique_ptr<Checkpoint> open_single_file(const fs::path& file) {
  if (file.filename().string().ends_with(".index.json")) {
    throw Error(ErrorCode::usage, fmt::format("{} is an index, not a file of tensors.", io::in_quotes(file.string())),
                "Give the directory that it lies in.");
  }
  if (gguf::is_gguf_file(file)) return gguf::open_gguf(file);
  if (gguf::has_importance_name(file)) return gguf::open_legacy_importance(file);
  if (is_hdf5_file(file)) return hdf5_container::open_hdf5(file, file, {}, {});
  return safetensors::open_single_file(file);
}

}  // namespace

std::unique_ptr<Checkpoint> open_checkpoint(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    io::fail_io("open", path, error ? error.value() : static_cast<int>(std::errc::no_such_file_or_directory));
  }
  return fs::is_directory(status) ? open_directory(path) : open_single_file(path);
}

}  // namespace quant
