// The container "safetensors": files whose layout is fixed before any tensor exists, filled in any order.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "containers/safetensors/header.h"
#include "quant/error.h"
#include "quant/registry.h"

namespace quant::safetensors {
namespace {

using io::in_quotes;

using io::fail_io;
using io::FileHandle;
using io::read_at;
using io::write_at;

struct Place {
  std::uint64_t offset = 0;  // in the file
  std::uint64_t bytes = 0;
};

// Everything about a file that follows from its header.
struct FileLayout {
  std::string header;
  std::vector<Place> places;
  std::uint64_t file_bytes = 0;
};

FileLayout plan_file(const std::vector<StoredTensor>& tensors, const Metadata& metadata) {
  FileLayout layout;
  layout.header = make_header(tensors, metadata);
  layout.file_bytes = layout.header.size();
  layout.places.reserve(tensors.size());
  for (const StoredTensor& tensor : tensors) {
    layout.places.push_back({layout.file_bytes, tensor.bytes()});
    layout.file_bytes = checked_add(layout.file_bytes, tensor.bytes(), "size of the file");
  }
  return layout;
}

// fsync or fdatasync of something that may not support it, as a directory on some file systems.
template <class Sync>
void sync_or_fail(Sync sync, const FileHandle& file, const std::filesystem::path& path) {
  while (sync(file.get()) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL || errno == ENOTSUP) return;
    fail_io("sync", path, errno);
  }
}

class Writer final : public ContainerWriter {
 public:
  Writer(FileHandle file, std::filesystem::path path, std::vector<Place> places)
      : file_(std::move(file)), path_(std::move(path)), places_(std::move(places)) {}

  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    if (tensor >= places_.size()) {
      throw Error(ErrorCode::internal, fmt::format("{} has {} tensors, there is no number {}.",
                                                   in_quotes(path_.string()), places_.size(), tensor));
    }
    const Place& place = places_[tensor];
    if (offset > place.bytes || data.size() > place.bytes - offset) {
      throw Error(ErrorCode::internal,
                  fmt::format("{} bytes at {} lie outside tensor number {} of {}, which has {} bytes.", data.size(),
                              offset, tensor, in_quotes(path_.string()), place.bytes));
    }
    write_at(file_, path_, place.offset + offset, data);
  }

  void sync() override {
    sync_or_fail(fdatasync, file_, path_);
    if (entry_is_durable_.load()) return;
    // A new file survives a power failure only if its directory's entry does.
    const std::filesystem::path parent = path_.has_parent_path() ? path_.parent_path() : ".";
    const FileHandle directory(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() < 0) fail_io("open", parent, errno);
    sync_or_fail(fsync, directory, parent);
    entry_is_durable_.store(true);
  }

 private:
  FileHandle file_;
  std::filesystem::path path_;
  std::vector<Place> places_;
  std::atomic<bool> entry_is_durable_{false};
};

// Reserves the blocks, so that a full disk shows now and not after hours. Nothing is zero-filled: where the file system
// cannot reserve, the file is merely extended, and a full disk shows when data is written.
void reserve(const FileHandle& file, const std::filesystem::path& path, std::uint64_t bytes) {
  const std::string action = fmt::format("reserve {} bytes for", bytes);
  if (bytes > static_cast<std::uint64_t>(INT64_MAX)) fail_io(action, path, EFBIG);
  const auto size = static_cast<off_t>(bytes);
#ifdef __linux__
  int result = 0;
  do {
    result = fallocate(file.get(), 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return;
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) fail_io(action, path, errno);
#endif
  while (ftruncate(file.get(), size) != 0) {
    if (errno != EINTR) fail_io(action, path, errno);
  }
}

// The name under which a file is made until it has its size and header.
std::filesystem::path unfinished_name(const std::filesystem::path& path) {
  return path.parent_path() / ("." + path.filename().string() + ".new");
}

// Made beside and renamed: a file of this name that somebody has mapped stays as it is, and a crash at any moment
// leaves either no file or one that can be resumed.
FileHandle create_file(const std::filesystem::path& path, const FileLayout& layout) {
  const std::filesystem::path unfinished = unfinished_name(path);
  FileHandle file(open(unfinished.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (file.get() < 0) fail_io("create", path, errno);
  try {
    reserve(file, path, layout.file_bytes);
    write_at(file, path, 0, std::as_bytes(std::span(layout.header)));
    if (std::rename(unfinished.c_str(), path.c_str()) != 0) fail_io("create", path, errno);
  } catch (...) {
    unlink(unfinished.c_str());
    throw;
  }
  return file;
}

[[noreturn]] void fail_resume(const std::filesystem::path& path, const std::string& reason) {
  throw Error(ErrorCode::io, fmt::format("{} cannot be continued: {}.", in_quotes(path.string()), reason),
              "Start again without --resume, or resume with the recipe and model that began the file.",
              "ResumeMismatch");
}

FileHandle reopen_file(const std::filesystem::path& path, const FileLayout& layout) {
  FileHandle file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() < 0) fail_io("open", path, errno);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail_io("examine", path, errno);
  if (!S_ISREG(status.st_mode)) fail_resume(path, "it is not a regular file");
  if (static_cast<std::uint64_t>(status.st_size) != layout.file_bytes) {
    fail_resume(path, fmt::format("it has {} bytes instead of {}", status.st_size, layout.file_bytes));
  }
  std::string found(layout.header.size(), '\0');
  read_at(file, path, 0, std::as_writable_bytes(std::span(found)));
  if (found != layout.header) fail_resume(path, "its header describes other tensors or metadata");
  return file;
}

class SafetensorsContainer final : public Container {
 public:
  std::string_view name() const override { return "safetensors"; }
  std::string_view extension() const override { return ".safetensors"; }

  std::uint64_t file_bytes(const std::vector<StoredTensor>& tensors, const Metadata& metadata) const override {
    return plan_file(tensors, metadata).file_bytes;
  }

  std::unique_ptr<ContainerWriter> create(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                                          const Metadata& metadata, bool resume) const override {
    FileLayout layout = plan_file(tensors, metadata);
    FileHandle file = resume ? reopen_file(path, layout) : create_file(path, layout);
    return std::make_unique<Writer>(std::move(file), path, std::move(layout.places));
  }
};

}  // namespace
}  // namespace quant::safetensors

namespace quant {

void register_safetensors(Registry& registry);

void register_safetensors(Registry& registry) { registry.add(std::make_unique<safetensors::SafetensorsContainer>()); }

}  // namespace quant
