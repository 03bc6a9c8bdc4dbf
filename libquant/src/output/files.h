// Small file operations that either complete, durably, or say why not.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "quant/checkpoint.h"

namespace quant {

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// The whole file. Throws Error{io}.
std::string read_text_file(const std::filesystem::path& path);
/// Writes a temporary file beside `path`, makes it durable, and renames it. Throws Error{io}.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);
/// Copies in the same way, with the permissions of a new file whatever the original's are. Throws Error{io}.
void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to);
/// Makes the content of a file, or the names in a directory, durable. Throws Error{io}.
void sync_path(const std::filesystem::path& path);
/// Where a companion file of a checkpoint goes, relative to the output directory.
std::filesystem::path companion_name(const Checkpoint& checkpoint, const std::filesystem::path& companion);
/// Error{io} with the path, the operation, the system's reason and, where there is one, a way out.
[[noreturn]] void throw_io_error(const std::string& what, const std::filesystem::path& path, int error_number);

}  // namespace quant
