// A model on disk: named tensors and the small files beside them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/tensor.h"

namespace quant {

/// A tensor of a checkpoint, known from the file's header alone.
struct TensorInfo {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  ///< of the first byte in the file
  std::uint32_t file = 0;    ///< index into Checkpoint::files()
};

struct CheckpointFile {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::vector<std::pair<std::string, std::string>> metadata;  ///< the file's own key-value pairs, sorted by key
};

/// What config.json says, as far as every model has it.
struct ModelConfig {
  std::string text;  ///< the whole file; empty if there is none
  std::string model_type;
  std::vector<std::string> architectures;
  bool tie_word_embeddings = false;
  std::optional<DType> dtype;
  std::string quantization_config;  ///< that object as JSON text; empty if absent
};
/// Reads the fields above. Throws Error{corrupt_file} naming `path` for text that is not a JSON object.
ModelConfig parse_model_config(std::string text, const std::filesystem::path& path);
/// The text of a quantization_config that lies in a file of its own (quantize_config.json), with quant_method `method`
/// if it names none. Throws Error{corrupt_file} naming `path` for text that is not a JSON object.
std::string parse_quantization_beside(std::string_view text, const std::filesystem::path& path,
                                      std::string_view method);

/// An opened checkpoint. Data is mapped, never copied; opening reads headers only. Thread-safe.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  /// The directory, or the file if it was opened as a single file.
  virtual const std::filesystem::path& location() const = 0;
  virtual const std::vector<CheckpointFile>& files() const = 0;
  /// All tensors in file order, by offset within a file.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual const TensorInfo* find(std::string_view name) const = 0;  ///< null if absent
  virtual TensorView view(const TensorInfo& info) const = 0;
  /// Advice that saves page faults and keeps the resident set small: the bytes of `part`, which lies within a view of
  /// this checkpoint, are read next, or will not be needed again soon. Changes nothing that is read.
  virtual void will_read(const TensorView& part) const { static_cast<void>(part); }
  virtual void done_reading(const TensorView& part) const { static_cast<void>(part); }
  virtual const ModelConfig& config() const = 0;
  /// Files that a copy of the model needs unchanged: tokenizer, generation config, ... (not config.json, not tensors).
  virtual const std::vector<std::filesystem::path>& companions() const = 0;
};

/// A tensor to be stored: its place in a file is fixed by the container before any data exists.
struct StoredTensor {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;
  std::uint64_t bytes() const { return byte_count(dtype, shape); }
  friend bool operator==(const StoredTensor&, const StoredTensor&) = default;
};

/// The order of tensors in a file: that of the reference writer of safetensors, widest type first (U64 I64 F64 C64 F32
/// ... F6_E3M2 F6_E2M3 F4 BOOL), then by the bytes of the name. Tensors written in this order one after the other start
/// at multiples of their element size, which readers that reinterpret the mapping rely on. A strict weak order.
bool stored_before(const StoredTensor& a, const StoredTensor& b);

/// One file being written. write() may be called from several threads for different ranges.
class ContainerWriter {
 public:
  virtual ~ContainerWriter() = default;
  /// Bytes [offset, offset + data.size()) of tensor number `tensor` (its place in the list given at creation).
  /// Throws Error{io} (disk full, ...) and Error{internal} for a range outside the tensor.
  virtual void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) = 0;
  /// Everything written so far survives a power failure when this returns.
  virtual void sync() = 0;
};

/// A file format for named tensors, e.g. safetensors.
class Container {
 public:
  virtual ~Container() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view extension() const = 0;  ///< ".safetensors"
  /// Exact size of the file.
  virtual std::uint64_t file_bytes(const std::vector<StoredTensor>& tensors,
                                   const std::vector<std::pair<std::string, std::string>>& metadata) const = 0;
  /// Creates the file in its full size, or opens the one an interrupted run left (`resume`; it must have been created
  /// from the same arguments, else Error{io}).
  virtual std::unique_ptr<ContainerWriter> create(const std::filesystem::path& path,
                                                  const std::vector<StoredTensor>& tensors,
                                                  const std::vector<std::pair<std::string, std::string>>& metadata,
                                                  bool resume) const = 0;
};

}  // namespace quant
