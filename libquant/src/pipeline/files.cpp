#include "pipeline/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "quant/error.h"

namespace quant {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

void write_all(int fd, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io_error("cannot write", path, errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

void throw_io_error(const std::string& what, const std::filesystem::path& path, int error_number) {
  std::string hint;
  if (error_number == ENOSPC || error_number == EDQUOT) hint = "free some space and run again with --resume";
  if (error_number == EACCES || error_number == EROFS) hint = "choose an output directory that you may write to";
  throw Error(ErrorCode::io, what + " " + path.string() + ": " + std::strerror(error_number), hint);
}

std::string read_text_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw_io_error("cannot read", path, errno == 0 ? ENOENT : errno);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (file.get() < 0) throw_io_error("cannot create", temporary, errno);
    write_all(file.get(), text, temporary);
    if (::fsync(file.get()) != 0) throw_io_error("cannot write", temporary, errno);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_io_error("cannot create", path, errno);
}

void sync_directory(const std::filesystem::path& path) {
  const Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) throw_io_error("cannot open", path, errno);
  // Some file systems cannot sync directories and say so with EINVAL; there is nothing to be done about it then.
  if (::fsync(directory.get()) != 0 && errno != EINVAL) throw_io_error("cannot write", path, errno);
}

}  // namespace quant
