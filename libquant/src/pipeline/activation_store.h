// Activations between two passes through a program: in memory up to a budget, the rest in a temporary file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "output/files.h"

namespace quant {

/// Memory that several stores share.
class ActivationBudget {
 public:
  ActivationBudget(std::filesystem::path directory, std::uint64_t bytes)
      : directory_(std::move(directory)), left_(bytes) {}
  /// Takes `bytes` of the budget if they are there.
  bool reserve(std::uint64_t bytes);
  void give_back(std::uint64_t bytes) { left_ += bytes; }
  /// A file in the directory that has no name any more, so that nothing is left of it after a crash.
  Descriptor temporary_file() const;
  const std::filesystem::path& directory() const { return directory_; }

 private:
  std::filesystem::path directory_;
  std::uint64_t left_;
};

/// One array of floats per chunk. What was put comes back exactly, wherever it was kept. Used by one thread at a time.
class ActivationStore {
 public:
  ActivationStore(ActivationBudget& budget, std::size_t chunks) : budget_(&budget), chunks_(chunks) {}
  ~ActivationStore();
  ActivationStore(ActivationStore&& other) noexcept;
  ActivationStore& operator=(ActivationStore&& other) noexcept;

  /// Keeps the values of a chunk; replaces those that were there. Throws Error{io} if the disk is full.
  void put(std::size_t chunk, std::vector<float> values);
  /// A copy.
  std::vector<float> read(std::size_t chunk) const;
  /// Moves the values out and frees their place in memory.
  std::vector<float> take(std::size_t chunk);
  std::size_t chunks() const { return chunks_.size(); }
  std::uint64_t spilled_bytes() const { return file_end_; }

 private:
  struct Chunk {
    std::vector<float> values;
    std::uint64_t count = 0;
    std::uint64_t offset = 0;
    std::uint64_t room = 0;  // floats that fit there in the file
    bool in_memory = false;
  };
  void free_all();

  ActivationBudget* budget_;
  std::vector<Chunk> chunks_;
  std::unique_ptr<Descriptor> file_;
  std::uint64_t file_end_ = 0;
};

/// Whole arrays at a place of a file. Throw Error{io} naming `path`.
void write_floats(const Descriptor& file, const std::filesystem::path& path, std::uint64_t offset,
                  const std::vector<float>& values);
std::vector<float> read_floats(const Descriptor& file, const std::filesystem::path& path, std::uint64_t offset,
                               std::uint64_t count);

}  // namespace quant
