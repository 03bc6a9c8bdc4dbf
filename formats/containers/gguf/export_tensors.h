// Tensors of exported GGUF files: of which rows of the checkpoint they are made, and how they are written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "containers/io/file_io.h"
#include "quant/gguf.h"
#include "quant/logical_tensors.h"

namespace quant::gguf {

/// Rows [first, first + rows) of a tensor; of a vector: its numbers.
struct Source {
  const LogicalTensor* tensor = nullptr;
  std::uint64_t first = 0, rows = 0;
};

/// How one tensor of the file is made.
struct Item {
  std::vector<Source> sources;  ///< one after another
  std::vector<float> values;    ///< where there are no sources
  bool matrix = false;          ///< false: numbers that stay float32
  std::uint64_t cols = 1;
  BlockType type = BlockType::f32;
  bool moved = false;       ///< codes are kept
  bool rounded = false;     ///< it was quantized, and is once more
  bool one_more = false;    ///< 1 is added: norms of Gemma
  bool transposed = false;  ///< rows of the file are columns of the one source
  std::uint64_t head = 0;   ///< rows of a head whose order changes, of the one source; 0: they stay
};

/// Writes items where they belong. The bytes do not depend on the number of threads.
class TensorWriter {
 public:
  /// All must outlive it.
  TensorWriter(const Checkpoint& checkpoint, const LogicalTensors& tensors, const GgufExportOptions& options)
      : checkpoint_(checkpoint), tensors_(tensors), options_(options) {}

  /// Adds what became of the matrices that are written in blocks. Throws as export_gguf.
  void write(const Item& item, const io::FileHandle& file, const std::filesystem::path& path, std::uint64_t offset,
             std::vector<GgufMatrix>& matrices) const;

 private:
  struct Slice {
    std::size_t source = 0;
    std::uint64_t first = 0, count = 0;  ///< rows of the source that the file takes
    std::uint64_t row = 0;               ///< of the file
  };

  int threads() const;
  static std::vector<Slice> slices_of(const Item& item);
  void write_vector(const Item& item, const io::FileHandle& file, const std::filesystem::path& path,
                    std::uint64_t offset) const;
  std::vector<std::byte> rows_of(const Item& item, const Slice& slice, ErrorSums& sums) const;
  std::vector<float> values_of(const Item& item, const Slice& slice) const;
  std::vector<std::byte> moved_rows(const Item& item, const Slice& slice) const;
  std::vector<float> importance_of(const LogicalTensor& tensor, std::uint64_t cols) const;

  const Checkpoint& checkpoint_;
  const LogicalTensors& tensors_;
  const GgufExportOptions& options_;
};

}  // namespace quant::gguf
