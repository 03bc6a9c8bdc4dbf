#include "quant/data_files.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace quant {

bool holds_token_ids(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".npy" || extension == ".h5" || extension == ".hdf5";
}

std::filesystem::path model_directory(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return model;
  return model.has_parent_path() ? model.parent_path() : std::filesystem::path(".");
}

}  // namespace quant
