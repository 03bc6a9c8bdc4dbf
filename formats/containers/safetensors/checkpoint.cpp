#include "containers/safetensors/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <system_error>
#include <utility>

#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "containers/safetensors/directory.h"
#include "containers/safetensors/header.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

namespace fs = std::filesystem;
using io::file_size_of;
using io::FileHandle;
using io::in_quotes;
using io::MappedFile;
using io::open_regular_file;
using io::read_at;

// Numbers of tensors sorted by name. A hash table would be a little faster, but names can be made to collide in one.
class NameIndex {
 public:
  explicit NameIndex(const std::vector<TensorInfo>& tensors) : tensors_(tensors), order_(tensors.size()) {
    std::iota(order_.begin(), order_.end(), 0U);
    std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return std::pair(std::string_view(tensors_[a].name), a) < std::pair(std::string_view(tensors_[b].name), b);
    });
  }

  const TensorInfo* find(std::string_view name) const {
    const auto at = std::lower_bound(order_.begin(), order_.end(), name, [&](std::uint32_t i, std::string_view wanted) {
      return tensors_[i].name < wanted;
    });
    return at != order_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }

  /// Two tensors of one name, or nulls.
  std::pair<const TensorInfo*, const TensorInfo*> duplicate() const {
    const auto at = std::adjacent_find(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return tensors_[a].name == tensors_[b].name;
    });
    if (at == order_.end()) return {nullptr, nullptr};
    return {&tensors_[*at], &tensors_[*(at + 1)]};
  }

 private:
  const std::vector<TensorInfo>& tensors_;
  std::vector<std::uint32_t> order_;
};

// Everything that opening reads from the weight files.
struct OpenedFiles {
  std::vector<CheckpointFile> files;
  std::vector<MappedFile> maps;
  std::vector<TensorInfo> tensors;

  void add(const fs::path& path);
};

// The header is read, not mapped: should the file shrink meanwhile, a read fails where an access to a mapping would
// kill.
void OpenedFiles::add(const fs::path& path) {
  FileHandle file = open_regular_file(path);
  const std::uint64_t bytes = file_size_of(file, path);
  std::vector<std::byte> start(std::min(bytes, kLengthBytes));
  read_at(file, path, 0, start);
  const std::uint64_t length = header_length(start, bytes, path.string());
  start.resize(kLengthBytes + length);
  read_at(file, path, 0, start);
  Header header = parse_header(start, bytes, path.string());

  const auto number = static_cast<std::uint32_t>(files.size());
  for (TensorInfo& info : header.tensors) {
    info.file = number;
    tensors.push_back(std::move(info));
  }
  files.push_back({path, bytes, std::move(header.metadata)});
  maps.emplace_back(std::move(file), path, bytes);
}

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  SafetensorsCheckpoint(fs::path location, OpenedFiles opened, ModelConfig config, std::vector<fs::path> companions)
      : location_(std::move(location)),
        opened_(std::move(opened)),
        names_(opened_.tensors),
        config_(std::move(config)),
        companions_(std::move(companions)) {}

  const fs::path& location() const override { return location_; }
  const std::vector<CheckpointFile>& files() const override { return opened_.files; }
  const std::vector<TensorInfo>& tensors() const override { return opened_.tensors; }
  const TensorInfo* find(std::string_view name) const override { return names_.find(name); }
  const ModelConfig& config() const override { return config_; }
  const std::vector<fs::path>& companions() const override { return companions_; }

  TensorView view(const TensorInfo& info) const override {
    if (info.file >= opened_.maps.size() || info.bytes != byte_count(info.dtype, info.shape)) {
      throw Error(ErrorCode::internal, fmt::format("Tensor {} does not describe a tensor of {}.", in_quotes(info.name),
                                                   in_quotes(location_.string())));
    }
    return {info.dtype, info.shape, opened_.maps[info.file].range(info.offset, info.bytes)};
  }

  void will_read(const TensorView& part) const override {
    for (const MappedFile& map : opened_.maps) map.populate(part.bytes);
  }
  void done_reading(const TensorView& part) const override {
    for (const MappedFile& map : opened_.maps) map.release(part.bytes);
  }

  void check_names() const;
  void check_index(const WeightFiles& weights) const;

 private:
  const fs::path& file_of(const TensorInfo& info) const { return opened_.files[info.file].path; }

  fs::path location_;
  OpenedFiles opened_;
  NameIndex names_;  // refers to opened_
  ModelConfig config_;
  std::vector<fs::path> companions_;
};

void SafetensorsCheckpoint::check_names() const {
  const auto [first, second] = names_.duplicate();
  if (first == nullptr) return;
  throw Error(ErrorCode::corrupt_file,
              fmt::format("Tensor {} is stored twice: in {} and in {}.", in_quotes(first->name),
                          in_quotes(file_of(*first).string()), in_quotes(file_of(*second).string())),
              "Shards of different models may be mixed: fetch the model again.", "DuplicateTensor");
}

// Every listed tensor must be where the index says. Tensors that a shard has beyond the list are part of the model, as
// for every loader that reads whole shards.
void SafetensorsCheckpoint::check_index(const WeightFiles& weights) const {
  for (const auto& [name, shard] : weights.index->weights) {
    const TensorInfo* info = names_.find(name);
    if (info != nullptr && info->file == shard) continue;
    const std::string found =
        info == nullptr ? "no shard has it" : fmt::format("it is in {}", in_quotes(file_of(*info).string()));
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{} lists tensor {} in {}, but {}.", in_quotes(weights.index_path.string()),
                            in_quotes(name), in_quotes(weights.index->shards[shard]), found),
                "Index and shards are of different models: fetch the model again.", "MissingTensor");
  }
}

}  // namespace

std::unique_ptr<Checkpoint> open_directory(const fs::path& directory, ModelConfig config,
                                           std::vector<fs::path> companions) {
  const WeightFiles weights = find_weights(directory);
  OpenedFiles opened;
  for (const fs::path& file : weights.files) opened.add(file);
  auto checkpoint =
      std::make_unique<SafetensorsCheckpoint>(directory, std::move(opened), std::move(config), std::move(companions));
  checkpoint->check_names();
  if (weights.index) checkpoint->check_index(weights);
  return checkpoint;
}

std::unique_ptr<Checkpoint> open_single_file(const fs::path& file) {
  OpenedFiles opened;
  opened.add(file);
  return std::make_unique<SafetensorsCheckpoint>(file, std::move(opened), ModelConfig{}, std::vector<fs::path>{});
}

}  // namespace quant::safetensors
