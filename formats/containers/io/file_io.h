// Files of the operating system: opened with care, mapped for reading, written at places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace quant::io {

/// Owns a file descriptor.
class FileHandle {
 public:
  explicit FileHandle(int fd = -1) : fd_(fd) {}
  ~FileHandle() { reset(); }
  FileHandle(FileHandle&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileHandle& operator=(FileHandle&& other) noexcept;

  int get() const { return fd_; }
  void reset();

 private:
  int fd_;
};

/// Throws Error{io}: "Cannot <action> '<path>': <what the system says of `error_number`>.", with a hint where one
/// helps.
[[noreturn]] void fail_io(std::string_view action, const std::filesystem::path& path, int error_number);

/// Opens a regular file, or a link to one, for reading. Throws Error{io} for everything else; never waits on a FIFO.
FileHandle open_regular_file(const std::filesystem::path& path);
/// Bytes of an open file. Throws Error{io}.
std::uint64_t file_size_of(const FileHandle& file, const std::filesystem::path& path);
/// Fills `out` from `offset`. Throws Error{io}, kind "FileTruncated" where the file ends before that.
void read_at(const FileHandle& file, const std::filesystem::path& path, std::uint64_t offset, std::span<std::byte> out);
/// Writes all of `data` at `offset`. Throws Error{io} (disk full, ...). Thread-safe.
void write_at(const FileHandle& file, const std::filesystem::path& path, std::uint64_t offset,
              std::span<const std::byte> data);
/// The whole of a small file. Throws Error{corrupt_file, `kind`} past `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes, const char* kind);

/// A regular file mapped for reading. The mapping is of the file that was opened: one that takes its name later by
/// rename changes nothing here.
class MappedFile {
 public:
  /// Maps `bytes` bytes, the size that the file had when its header was checked. Throws Error{io}.
  MappedFile(FileHandle file, std::filesystem::path path, std::uint64_t bytes);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  /// Bytes [offset, offset + count). Throws Error{io, "FileTruncated"} if the file became shorter than it was, for a
  /// read behind its end would kill the process; Error{internal} for a range outside the file. Thread-safe.
  std::span<const std::byte> range(std::uint64_t offset, std::uint64_t count) const;
  /// Maps the pages of `part` at once instead of one fault after the other. Parts of other memory are ignored.
  void populate(std::span<const std::byte> part) const;
  /// Takes the whole pages of `part` out of the process; they stay in the page cache. Parts of other memory are
  /// ignored.
  void release(std::span<const std::byte> part) const;

 private:
  FileHandle file_;
  std::filesystem::path path_;
  std::uint64_t bytes_;
  bool holds(std::span<const std::byte> part) const;

  const std::byte* data_ = nullptr;
};

}  // namespace quant::io
