#include "containers/hdf5/checkpoint.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <string>
#include <system_error>

#include "containers/io/file_io.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"

namespace quant::hdf5_container {
namespace {

namespace fs = std::filesystem;
using io::fail_io;
using io::FileHandle;
using io::MappedFile;

constexpr std::uint64_t kAlignment = 64;
constexpr std::uint64_t kPieceBytes = 16U << 20U;

// A file without a name, of that size, all zeros and without blocks yet.
class UnnamedFile {
 public:
  explicit UnnamedFile(std::uint64_t bytes) : path_((fs::temp_directory_path() / "quant-XXXXXX").string()) {
    file_ = FileHandle(mkstemp(path_.data()));
    if (file_.get() < 0) fail_io("create", path_, errno);
    unlink(path_.c_str());
    if (ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) fail_io("extend", path_, errno);
  }
  FileHandle second_handle() const {
    FileHandle copy(dup(file_.get()));
    if (copy.get() < 0) fail_io("open", path_, errno);
    return copy;
  }
  const FileHandle& file() const { return file_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  FileHandle file_{-1};
};

class Hdf5Checkpoint final : public Checkpoint {
 public:
  Hdf5Checkpoint(fs::path location, const fs::path& file, ModelConfig config, std::vector<fs::path> companions)
      : location_(std::move(location)),
        reader_(file),
        tensors_(lay_out(reader_, total_bytes_)),
        values_(std::max<std::uint64_t>(1, total_bytes_)),
        map_(values_.second_handle(), values_.path(), std::max<std::uint64_t>(1, total_bytes_)),
        loaded_(tensors_.size(), 0),
        config_(std::move(config)),
        companions_(std::move(companions)) {
    files_.push_back({file, fs::file_size(file), reader_.metadata()});
  }

  const fs::path& location() const override { return location_; }
  const std::vector<CheckpointFile>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<fs::path>& companions() const override { return companions_; }

  const TensorInfo* find(std::string_view name) const override {
    const auto at =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  TensorView view(const TensorInfo& info) const override {
    const TensorInfo* own = find(info.name);
    if (own == nullptr || own->offset != info.offset || own->bytes != info.bytes) {
      throw Error(ErrorCode::internal,
                  fmt::format("{} does not describe a tensor of {}", info.name, location_.string()));
    }
    load(static_cast<std::size_t>(own - tensors_.data()));
    return {info.dtype, info.shape, map_.range(info.offset, info.bytes)};
  }
  void will_read(const TensorView& part) const override { map_.populate(part.bytes); }
  void done_reading(const TensorView& part) const override { map_.release(part.bytes); }

 private:
  static std::vector<TensorInfo> lay_out(const Hdf5TensorReader& reader, std::uint64_t& total) {
    std::vector<TensorInfo> tensors;
    total = 0;
    for (const StoredTensor& stored : reader.tensors()) {
      TensorInfo info{stored.name, stored.dtype, stored.shape, stored.bytes(), total, 0};
      total = checked_add(total, info.bytes, "tensors");
      total = checked_mul(checked_add(total, kAlignment - 1, "tensors") / kAlignment, kAlignment, "tensors");
      tensors.push_back(std::move(info));
    }
    return tensors;
  }

  // HDF5 works for one thread at a time, and so does this.
  void load(std::size_t tensor) const {
    const std::lock_guard lock(mutex_);
    if (loaded_[tensor] != 0) return;
    const TensorInfo& info = tensors_[tensor];
    const std::uint64_t rows = info.shape.empty() ? 1 : info.shape[0];
    if (info.bytes > 0) {
      const std::uint64_t row_bytes = info.bytes / rows;
      const std::uint64_t step = std::max<std::uint64_t>(1, kPieceBytes / row_bytes);
      std::vector<std::byte> piece;
      for (std::uint64_t first = 0; first < rows; first += step) {
        piece.resize(std::min(step, rows - first) * row_bytes);
        reader_.read(tensor, first, piece.size() / row_bytes, piece);
        io::write_at(values_.file(), values_.path(), info.offset + first * row_bytes, piece);
      }
    }
    loaded_[tensor] = 1;
  }

  fs::path location_;
  Hdf5TensorReader reader_;
  std::uint64_t total_bytes_ = 0;
  std::vector<TensorInfo> tensors_;  // sorted by name, as the reader has them
  UnnamedFile values_;
  MappedFile map_;
  mutable std::mutex mutex_;
  mutable std::vector<char> loaded_;
  std::vector<CheckpointFile> files_;
  ModelConfig config_;
  std::vector<fs::path> companions_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_hdf5(fs::path location, const fs::path& file, ModelConfig config,
                                      std::vector<fs::path> companions) {
  try {
    return std::make_unique<Hdf5Checkpoint>(std::move(location), file, std::move(config), std::move(companions));
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::io, fmt::format("cannot open {}: {}", file.string(), error.code().message()));
  }
}

}  // namespace quant::hdf5_container
