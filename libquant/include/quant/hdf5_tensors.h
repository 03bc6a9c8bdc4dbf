// Named tensors in HDF5 files: chunked, compressed datasets in groups. docs/native-layout.md is the schema.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quant/checkpoint.h"

namespace quant {

/// Reads such a file. All methods are thread-safe; HDF5 itself works for one thread at a time.
class Hdf5TensorReader {
 public:
  /// Reads names, types and shapes. Throws Error{io} if the file cannot be opened, Error{unsupported} for an HDF5 file
  /// that does not say to be one of tensors, and Error{corrupt_file} naming file and dataset for what this schema does
  /// not allow: links out of the file, an object that is linked twice, types that contradict the attribute "dtype",
  /// storage elsewhere or beyond the file's size, unknown or repeated filters, missing chunks and ones above 2^22
  /// bytes, more bytes than the stored chunks can hold.
  explicit Hdf5TensorReader(const std::filesystem::path& path);
  ~Hdf5TensorReader();
  Hdf5TensorReader(const Hdf5TensorReader&) = delete;
  Hdf5TensorReader& operator=(const Hdf5TensorReader&) = delete;

  /// Sorted by name.
  const std::vector<StoredTensor>& tensors() const;
  const std::vector<std::pair<std::string, std::string>>& metadata() const;
  /// Rows [first, first + count) of the outermost dimension (a tensor without dimensions has one row) as the bytes that
  /// a safetensors file would hold; out.size() is theirs. Throws Error{corrupt_file} if they cannot be decompressed.
  void read(std::size_t tensor, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// True if the file begins as HDF5 files do.
bool is_hdf5_file(const std::filesystem::path& path);

/// Writes all tensors of `checkpoint` into a new file, one after the other, in pieces; memory does not grow with the
/// model. `level`: of deflate, 0 (none) to 9. Of metadata that several files have, the first file's counts. Throws
/// Error{usage} for another level; before anything is written Error{unsupported} naming file and tensor or key for what
/// the reader would refuse: names with an empty part or more than 64 parts, types without a type of HDF5, metadata of
/// more than 2^20 bytes or with a key of more than 4086; Error{io} if the file exists or cannot be written.
void write_hdf5_tensors(const std::filesystem::path& path, const Checkpoint& checkpoint, int level);

}  // namespace quant
