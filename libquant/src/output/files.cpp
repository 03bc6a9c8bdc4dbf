#include "output/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <vector>

#include "quant/error.h"

namespace quant {
namespace {

Descriptor open_or_throw(const char* what, const std::filesystem::path& path, int flags) {
  Descriptor file(::open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (file.get() < 0) throw_io_error(what, path, errno);
  return file;
}

void write_all(const Descriptor& file, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io_error("cannot write", path, errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// The bytes read; 0 at the end of the file.
std::size_t read_some(const Descriptor& file, std::vector<char>& buffer, const std::filesystem::path& path) {
  while (true) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) throw_io_error("cannot read", path, errno);
  }
}

constexpr std::size_t kBuffer = 1U << 18U;

// Lets `fill` write a temporary file, and gives it its name once it is durable.
template <class Fill>
void create_atomically(const std::filesystem::path& path, const Fill& fill) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  {
    const Descriptor file = open_or_throw("cannot create", temporary, O_WRONLY | O_CREAT | O_TRUNC);
    fill(file, temporary);
    if (::fsync(file.get()) != 0) throw_io_error("cannot write", temporary, errno);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_io_error("cannot create", path, errno);
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void throw_io_error(const std::string& what, const std::filesystem::path& path, int error_number) {
  std::string hint;
  if (error_number == ENOSPC || error_number == EDQUOT) hint = "free some space and run again with --resume";
  if (error_number == EACCES || error_number == EROFS) hint = "choose an output directory that you may write to";
  throw Error(ErrorCode::io,
              what + " " + path.string() + ": " + std::error_code(error_number, std::generic_category()).message(),
              hint);
}

std::string read_text_file(const std::filesystem::path& path) {
  const Descriptor file = open_or_throw("cannot open", path, O_RDONLY);
  std::string text;
  std::vector<char> buffer(kBuffer);
  while (const std::size_t got = read_some(file, buffer, path)) text.append(buffer.data(), got);
  return text;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  create_atomically(path, [&](const Descriptor& file, const auto& name) { write_all(file, text, name); });
}

void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to) {
  const Descriptor source = open_or_throw("cannot open", from, O_RDONLY);
  std::vector<char> buffer(kBuffer);
  create_atomically(to, [&](const Descriptor& file, const auto& name) {
    while (const std::size_t got = read_some(source, buffer, from)) write_all(file, {buffer.data(), got}, name);
  });
}

void sync_path(const std::filesystem::path& path) {
  const Descriptor file = open_or_throw("cannot open", path, O_RDONLY);
  // Some file systems cannot sync directories and say so with EINVAL; there is nothing to be done about it then.
  if (::fsync(file.get()) != 0 && errno != EINVAL) throw_io_error("cannot write", path, errno);
}

std::filesystem::path companion_name(const Checkpoint& checkpoint, const std::filesystem::path& companion) {
  const auto relative = companion.lexically_relative(checkpoint.location());
  const bool inside = !relative.empty() && *relative.begin() != "..";
  return inside ? relative : companion.filename();
}

}  // namespace quant
