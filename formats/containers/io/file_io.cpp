#include "containers/io/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::io {
namespace {

static_assert(sizeof(off_t) == 8 && sizeof(std::size_t) == 8, "checkpoints are larger than 32 bits can address");

// Systems move at most about 2 GiB in one call.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

std::string hint_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "Free space on that disk or choose another output; an interrupted run can be resumed.";
    case EFBIG:
      return "The file system or the limit `ulimit -f` does not allow a file of that size: use smaller shards.";
    case EROFS:
      return "The target is read-only: choose another output.";
    case EACCES:
    case EPERM:
      return "Check the permissions of the file and of its directory.";
    case EMFILE:
      return "Too many files are open: raise the limit with `ulimit -n`.";
    case ENOENT:
      return "Check the path.";
    default:
      return {};
  }
}

struct stat status_of(const FileHandle& file, const std::filesystem::path& path) {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail_io("examine", path, errno);
  return status;
}

[[noreturn]] void fail_truncated(const std::filesystem::path& path, std::uint64_t expected, std::uint64_t found) {
  throw Error(ErrorCode::io,
              fmt::format("{} shrank to {} bytes while it was in use; {} are needed.", in_quotes(path.string()), found,
                          expected),
              "Another program changed the file: restore it and start again.", "FileTruncated");
}

const char* type_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void FileHandle::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void fail_io(std::string_view action, const std::filesystem::path& path, int error_number) {
  throw Error(
      ErrorCode::io,
      fmt::format("Cannot {} {}: {}.", action, in_quotes(path.string()), std::generic_category().message(error_number)),
      hint_for(error_number));
}

FileHandle open_regular_file(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO would wait for a writer. It has no effect on regular files.
  FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() < 0) fail_io("open", path, errno);
  const mode_t mode = status_of(file, path).st_mode;
  if (!S_ISREG(mode)) {
    throw Error(ErrorCode::io, fmt::format("{} is {}, not a regular file.", in_quotes(path.string()), type_name(mode)),
                "Give a regular file.", "NotRegularFile");
  }
  return file;
}

std::uint64_t file_size_of(const FileHandle& file, const std::filesystem::path& path) {
  return static_cast<std::uint64_t>(status_of(file, path).st_size);
}

void read_at(const FileHandle& file, const std::filesystem::path& path, std::uint64_t offset,
             std::span<std::byte> out) {
  std::uint64_t at = offset;
  while (!out.empty()) {
    const ssize_t got = pread(file.get(), out.data(), std::min(out.size(), kMaxTransfer), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_io("read", path, errno);
    if (got == 0) fail_truncated(path, at + out.size(), at);
    at += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

void write_at(const FileHandle& file, const std::filesystem::path& path, std::uint64_t offset,
              std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t put =
        pwrite(file.get(), data.data(), std::min(data.size(), kMaxTransfer), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const int error_number = put < 0 ? errno : ENOSPC;
      fail_io(fmt::format("write {} bytes at offset {} of", data.size(), offset), path, error_number);
    }
    offset += static_cast<std::uint64_t>(put);
    data = data.subspan(static_cast<std::size_t>(put));
  }
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes, const char* kind) {
  const FileHandle file = open_regular_file(path);
  const std::uint64_t bytes = file_size_of(file, path);
  if (bytes > max_bytes) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{} has {} bytes; the limit is {}.", in_quotes(path.string()), bytes, max_bytes), {}, kind);
  }
  std::string text(bytes, '\0');
  read_at(file, path, 0, std::as_writable_bytes(std::span(text)));
  return text;
}

MappedFile::MappedFile(FileHandle file, std::filesystem::path path, std::uint64_t bytes)
    : file_(std::move(file)), path_(std::move(path)), bytes_(bytes) {
  void* data = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (data == MAP_FAILED) fail_io("map", path_, errno);
  data_ = static_cast<const std::byte*>(data);
  // Weights are read once, front to back. Advice may be refused without harm.
  madvise(data, bytes_, MADV_SEQUENTIAL);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), bytes_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : file_(std::move(other.file_)),
      path_(std::move(other.path_)),
      bytes_(other.bytes_),
      data_(std::exchange(other.data_, nullptr)) {}

std::span<const std::byte> MappedFile::range(std::uint64_t offset, std::uint64_t count) const {
  if (offset > bytes_ || count > bytes_ - offset) {
    throw Error(ErrorCode::internal, fmt::format("Bytes {} to {} lie outside {}, which has {}.", offset, offset + count,
                                                 in_quotes(path_.string()), bytes_));
  }
  const std::uint64_t now = file_size_of(file_, path_);
  if (now < bytes_) fail_truncated(path_, bytes_, now);
  return {data_ + offset, count};
}

bool MappedFile::holds(std::span<const std::byte> part) const {
  const auto begin = reinterpret_cast<std::uintptr_t>(data_);
  const auto first = reinterpret_cast<std::uintptr_t>(part.data());
  return !part.empty() && first >= begin && first - begin <= bytes_ && part.size() <= bytes_ - (first - begin);
}

void MappedFile::populate(std::span<const std::byte> part) const {
#ifdef MADV_POPULATE_READ
  if (!holds(part)) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(part.data());
  const std::uintptr_t start = first / page * page;
  // Older kernels do not know this advice; then the pages come by faults.
  madvise(reinterpret_cast<void*>(start), first + part.size() - start, MADV_POPULATE_READ);
#else
  static_cast<void>(part);
#endif
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (!holds(part)) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(part.data());
  // A page that a neighbouring part shares may still be in use there.
  const std::uintptr_t start = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + part.size()) / page * page;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
}

}  // namespace quant::io
