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
  /// Reads names, types and shapes. Throws Error{io} if the file cannot be opened, Error{corrupt_file} naming file and
  /// dataset for what this schema does not allow: links out of the file, types that contradict the attribute "dtype",
  /// storage elsewhere, unknown filters, more bytes than the stored chunks can hold.
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
/// model. `level`: of deflate, 0 (none) to 9. Throws Error{io} if the file exists or cannot be written, Error{usage}
/// for another level or a name that HDF5 cannot hold.
void write_hdf5_tensors(const std::filesystem::path& path, const Checkpoint& checkpoint, int level);

}  // namespace quant
