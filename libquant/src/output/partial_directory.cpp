#include "output/partial_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "quant/error.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// "out/" means "out".
fs::path without_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path partial_of(fs::path output) { return output += ".partial"; }

void require_absent(const fs::path& output) {
  if (!fs::exists(fs::symlink_status(output))) return;
  throw Error(ErrorCode::io, "the output " + output.string() + " exists already",
              "choose another name, or remove it first");
}

// The lock is on the directory itself, so that it goes with it through the last rename.
Descriptor create_and_lock(const fs::path& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) throw_io_error("cannot create", path, failed.value());
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) throw_io_error("cannot open", path, errno);
  if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error(ErrorCode::io, "another process is working on " + path.string(), "wait for it, or stop it first");
  }
  return directory;
}

}  // namespace

PartialDirectory::PartialDirectory(fs::path output, Existing existing, const std::string& hint)
    : output_(without_slash(output)),
      path_(partial_of(output_)),
      lock_((require_absent(output_), create_and_lock(path_))) {
  if (!is_ours()) throw Error(ErrorCode::io, "another process has just finished " + path_.string());
  require_absent(output_);  // it may have been finished between the first look and the lock
  std::error_code failed;
  if (fs::is_empty(path_, failed)) return;
  if (existing == Existing::refuse) {
    throw Error(ErrorCode::io, path_.string() + " is left from an unfinished run", hint);
  }
  if (existing == Existing::discard) clear();
  resumed_ = existing == Existing::resume;
}

bool PartialDirectory::is_ours() const {
  struct stat locked {};
  struct stat named {};
  return ::fstat(lock_.get(), &locked) == 0 && ::stat(path_.c_str(), &named) == 0 && locked.st_ino == named.st_ino &&
         locked.st_dev == named.st_dev;
}

void PartialDirectory::require_space(std::uint64_t bytes) const {
  std::error_code failed;
  const auto space = fs::space(path_, failed);
  if (failed || space.available >= bytes) return;
  throw Error(ErrorCode::io,
              fmt::format("{} has {:.1f} MB free, the output needs {:.1f} MB", path_.parent_path().string(),
                          static_cast<double>(space.available) / 1e6, static_cast<double>(bytes) / 1e6),
              "free some space or choose another output");
}

void PartialDirectory::clear() const {
  std::error_code failed;
  for (fs::directory_iterator at(path_, failed), end; !failed && at != end; at.increment(failed)) {
    fs::remove_all(at->path(), failed);
    if (failed) break;
  }
  if (failed) throw_io_error("cannot empty", path_, failed.value());
}

void PartialDirectory::remove() const {
  std::error_code ignored;
  if (is_ours()) fs::remove_all(path_, ignored);
}

void PartialDirectory::commit() const {
  sync_path(path_);
  if (!is_ours()) throw Error(ErrorCode::io, path_.string() + " was moved or replaced by another process");
  // A plain rename would replace an empty directory that appeared meanwhile.
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, output_.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) throw_io_error("cannot rename " + path_.string() + " to", output_, errno);
    require_absent(output_);  // a file system without that operation
    if (::rename(path_.c_str(), output_.c_str()) != 0) {
      throw_io_error("cannot rename " + path_.string() + " to", output_, errno);
    }
  }
  sync_path(output_.has_parent_path() ? output_.parent_path() : fs::path("."));
}

}  // namespace quant
