#include "pipeline/activation_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "quant/error.h"

namespace quant {

bool ActivationBudget::reserve(std::uint64_t bytes) {
  if (bytes > left_) return false;
  left_ -= bytes;
  return true;
}

Descriptor ActivationBudget::temporary_file() const {
  const auto path = directory_ / ".quant-activations.tmp";
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.get() < 0) throw_io_error("cannot create", path, errno);
  if (::unlink(path.c_str()) != 0) throw_io_error("cannot remove", path, errno);
  return file;
}

void write_floats(const Descriptor& file, const std::filesystem::path& path, std::uint64_t offset,
                  const std::vector<float>& values) {
  const auto* at = reinterpret_cast<const char*>(values.data());
  std::uint64_t bytes = values.size() * sizeof(float);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(file.get(), at, bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io_error("cannot write activations to", path, errno);
    at += written;
    offset += static_cast<std::uint64_t>(written);
    bytes -= static_cast<std::uint64_t>(written);
  }
}

std::vector<float> read_floats(const Descriptor& file, const std::filesystem::path& path, std::uint64_t offset,
                               std::uint64_t count) {
  std::vector<float> values(count);
  auto* at = reinterpret_cast<char*>(values.data());
  std::uint64_t bytes = count * sizeof(float);
  while (bytes > 0) {
    const ssize_t got = ::pread(file.get(), at, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw_io_error("cannot read activations from", path, got < 0 ? errno : EIO);
    at += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::uint64_t>(got);
  }
  return values;
}

ActivationStore::~ActivationStore() { free_all(); }

ActivationStore::ActivationStore(ActivationStore&& other) noexcept
    : budget_(other.budget_),
      chunks_(std::move(other.chunks_)),
      file_(std::move(other.file_)),
      file_end_(std::exchange(other.file_end_, 0)) {
  other.chunks_.clear();
}

ActivationStore& ActivationStore::operator=(ActivationStore&& other) noexcept {
  if (this == &other) return *this;
  free_all();
  budget_ = other.budget_;
  chunks_ = std::move(other.chunks_);
  other.chunks_.clear();
  file_ = std::move(other.file_);
  file_end_ = std::exchange(other.file_end_, 0);
  return *this;
}

void ActivationStore::free_all() {
  for (Chunk& chunk : chunks_) {
    if (chunk.in_memory) budget_->give_back(chunk.count * sizeof(float));
  }
  chunks_.clear();
}

void ActivationStore::put(std::size_t index, std::vector<float> values) {
  Chunk& chunk = chunks_.at(index);
  if (chunk.in_memory) take(index);
  chunk.count = values.size();
  chunk.in_memory = budget_->reserve(chunk.count * sizeof(float));
  if (chunk.in_memory) {
    values.shrink_to_fit();
    chunk.values = std::move(values);
    return;
  }
  if (!file_) file_ = std::make_unique<Descriptor>(budget_->temporary_file());
  // A stream that passes block after block puts the same number each time: the file does not grow.
  if (chunk.room < chunk.count) {
    chunk.offset = file_end_;
    chunk.room = chunk.count;
    file_end_ += chunk.count * sizeof(float);
  }
  write_floats(*file_, budget_->directory(), chunk.offset, values);
}

std::vector<float> ActivationStore::read(std::size_t index) const {
  const Chunk& chunk = chunks_.at(index);
  if (chunk.in_memory) return chunk.values;
  if (chunk.count == 0) return {};
  return read_floats(*file_, budget_->directory(), chunk.offset, chunk.count);
}

std::vector<float> ActivationStore::take(std::size_t index) {
  Chunk& chunk = chunks_.at(index);
  if (!chunk.in_memory) return read(index);
  chunk.in_memory = false;
  budget_->give_back(std::exchange(chunk.count, 0) * sizeof(float));
  return std::exchange(chunk.values, {});
}

}  // namespace quant
