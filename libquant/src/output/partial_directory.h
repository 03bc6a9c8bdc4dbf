// "<output>.partial": where an output is made before it gets its name.
#pragma once

#include <cstdint>
#include <filesystem>

#include "output/files.h"

namespace quant {

/// Locked against other processes for as long as the object lives.
class PartialDirectory {
 public:
  enum class Existing {
    refuse,  ///< a partial directory that is there already is an error
    resume,  ///< go on with its content
    discard  ///< remove its content
  };

  /// Creates and locks the directory. Throws Error{io} if `output` exists, another process works on it, or `existing`
  /// says so; `hint` is what the user can do about one that is left from an earlier run.
  PartialDirectory(std::filesystem::path output, Existing existing, const std::string& hint);

  const std::filesystem::path& path() const { return path_; }
  /// There was content to go on with.
  bool resumed() const { return resumed_; }
  /// Throws Error{io} if the disk has less than `bytes` free.
  void require_space(std::uint64_t bytes) const;
  /// Removes the content.
  void clear() const;
  /// Removes the directory itself too.
  void remove() const;
  /// Gives it the output's name, durably. Throws Error{io} if the output has appeared meanwhile.
  void commit() const;

 private:
  bool is_ours() const;

  std::filesystem::path output_;
  std::filesystem::path path_;
  bool resumed_ = false;
  Descriptor lock_;
};

}  // namespace quant
