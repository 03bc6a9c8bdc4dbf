#include "containers/io/companions.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "containers/io/file_io.h"

namespace quant::io {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 2;                   // levels of subfolders
constexpr std::size_t kMaxFolderEntries = 64;  // a subfolder with more is no part of a model
constexpr std::uintmax_t kMaxFolderBytes = 64ULL * 1024 * 1024;

constexpr std::array<std::string_view, 12> kExtensions{".json", ".jsonl", ".txt", ".md",  ".model",    ".jinja",
                                                       ".py",   ".yaml",  ".yml", ".spm", ".tiktoken", ".bpe"};
constexpr std::array<std::string_view, 10> kPrefixes{"tokenizer",     "vocab",  "merges",  "special_tokens",
                                                     "chat_template", "readme", "license", "notice",
                                                     "use_policy",    "copying"};
constexpr std::array<std::string_view, 16> kWeightExtensions{
    ".safetensors", ".bin", ".pt",   ".pth",   ".ckpt", ".gguf",    ".ggml",   ".onnx",
    ".onnx_data",   ".h5",  ".hdf5", ".keras", ".npz",  ".msgpack", ".tflite", ".mlpackage"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

template <std::size_t N>
bool has_extension(const std::string& name, const std::array<std::string_view, N>& extensions) {
  return std::any_of(extensions.begin(), extensions.end(), [&](std::string_view e) { return name.ends_with(e); });
}

// Judges a name in lower case.
bool is_companion_name(const std::string& name) {
  if (name.starts_with('.') || has_extension(name, kWeightExtensions)) return false;
  if (name.ends_with(".index.json")) return false;  // of this or another copy of the weights
  return has_extension(name, kExtensions) ||
         std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](std::string_view p) { return name.starts_with(p); });
}

struct Folder {
  std::vector<fs::directory_entry> files;
  std::vector<fs::path> folders;
  std::size_t entries = 0;
  bool has_weights = false;
};

// An unreadable folder (lost+found) counts as empty.
Folder list_folder(const fs::path& path) {
  Folder folder;
  std::error_code error;
  fs::directory_iterator at(path, fs::directory_options::skip_permission_denied, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    ++folder.entries;
    std::error_code status_error;
    const std::string name = lower(at->path().filename().string());
    const bool is_link = at->is_symlink(status_error);
    folder.has_weights = folder.has_weights || has_extension(name, kWeightExtensions);
    if (at->is_regular_file(status_error)) {  // a link to a file counts, as in the Hugging Face cache
      if (is_companion_name(name)) folder.files.push_back(*at);
    } else if (at->is_directory(status_error) && !is_link && !name.starts_with('.') && name != "__pycache__") {
      folder.folders.push_back(at->path());
    }
  }
  if (error) fail_io("list", path, error.value());
  return folder;
}

std::uintmax_t bytes_of(const Folder& folder) {
  std::uintmax_t bytes = 0;
  for (const fs::directory_entry& file : folder.files) {
    std::error_code error;
    const std::uintmax_t size = file.file_size(error);
    bytes += error ? 0 : size;
  }
  return bytes;
}

// A subfolder with weights is another copy of the model (onnx/, original/) or a training checkpoint, not a companion.
bool belongs_to_model(const Folder& folder) {
  return !folder.has_weights && folder.entries <= kMaxFolderEntries && bytes_of(folder) <= kMaxFolderBytes;
}

void collect(const Folder& folder, int depth, std::vector<fs::path>& out) {
  for (const fs::directory_entry& file : folder.files) out.push_back(file.path());
  if (depth == kMaxDepth) return;
  for (const fs::path& path : folder.folders) {
    const Folder below = list_folder(path);
    if (belongs_to_model(below)) collect(below, depth + 1, out);
  }
}

}  // namespace

std::vector<fs::path> find_companions(const fs::path& directory) {
  std::vector<fs::path> companions;
  collect(list_folder(directory), 0, companions);
  std::erase(companions, directory / "config.json");
  std::sort(companions.begin(), companions.end());
  return companions;
}

}  // namespace quant::io
