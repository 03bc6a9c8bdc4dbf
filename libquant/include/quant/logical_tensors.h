// A checkpoint as plain float matrices, whatever its storage: what compare, dequantize, inspect and verify read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/layout.h"
#include "quant/registry.h"

namespace quant {

/// How a pass over all tensors of a checkpoint runs. Results never depend on it.
struct ScanOptions {
  int threads = 0;  ///< 0: all processors
  /// Called at most ten times a second, from one thread at a time. Units are values read and values to read.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  const std::atomic<bool>* stop = nullptr;  ///< set to true: the pass ends with Error{interrupted}
};

/// One tensor of the model, seen as a row-major matrix [rows, cols] of float32.
struct LogicalTensor {
  std::string name;  ///< "model.layers.0.mlp.up_proj.weight", also where the file holds packed parts of it
  Shape shape;
  DType dtype = DType::F32;              ///< as stored; of the original weight where it is quantized
  const TensorInfo* plain = nullptr;     ///< the stored tensor, or null
  const StoredLinear* linear = nullptr;  ///< the quantized linear, or null
  bool numeric = true;                   ///< false: no float view (BOOL, C64, F6); compare bytes instead
  std::uint64_t rows = 0;                ///< product of all sizes but the last; the size itself for one dimension
  std::uint64_t cols = 0;                ///< the last size; 1 for fewer than two dimensions
  std::uint64_t stored_bytes = 0;        ///< of all its tensors in the file

  std::uint64_t count() const { return rows * cols; }
};

/// The logical tensors of one checkpoint. Thread-safe to read; the checkpoint and the registry must outlive it.
class LogicalTensors {
 public:
  /// Throws Error{unsupported} for a quantization that no layout of `registry` reads, Error{corrupt_file} for quantized
  /// parts that do not fit together.
  LogicalTensors(const Checkpoint& checkpoint, const Registry& registry);
  LogicalTensors(const LogicalTensors&) = delete;
  LogicalTensors& operator=(const LogicalTensors&) = delete;

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Layout* layout() const { return layout_; }  ///< null for a checkpoint that is not quantized
  const std::vector<StoredLinear>& linears() const { return linears_; }
  const std::vector<LogicalTensor>& tensors() const { return tensors_; }  ///< in file order
  const LogicalTensor* find(std::string_view name) const;                 ///< null if absent

  /// Rows that are best read together: about a million values, a multiple of the layout's alignment.
  std::uint64_t block_rows(const LogicalTensor& tensor) const;
  /// Rows [first, first + count) as float32; out.size() == count * tensor.cols. Any `first` works; multiples of
  /// block_rows cost least. Throws Error{unsupported} for a tensor that is not numeric.
  void read_rows(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count, std::span<float> out) const;
  /// A quantized matrix as it is stored (tensor.linear is not null), read by that many threads.
  QuantizedTensor read_quantized(const LogicalTensor& tensor, int threads) const;
  /// Advice, as Checkpoint::done_reading: the resident set need not keep these rows, or the tensor.
  void done_reading(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count) const;
  void done_reading(const LogicalTensor& tensor) const;

 private:
  void add_plain(const TensorInfo& info);
  void add_linear(const StoredLinear& linear);
  void index_names();
  void read_quantized(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count,
                      std::span<float> out) const;

  const Checkpoint& checkpoint_;
  const Layout* layout_ = nullptr;
  std::vector<StoredLinear> linears_;
  std::vector<LogicalTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

/// The layout that reads this checkpoint, or null if its config.json has no quantization_config. Throws
/// Error{unsupported} naming the method if there is one that no layout reads.
const Layout* layout_of(const Checkpoint& checkpoint, const Registry& registry);
/// quantization_config's quant_method ("compressed-tensors"), or empty.
std::string quantization_method(const ModelConfig& config);
/// False for BOOL, C64 and the F6 types, which read_f32 refuses.
bool has_float_view(DType type);
/// True for types with more precision than float32 (F64 and integers of 32 and 64 bits).
bool is_wider_than_f32(DType type);

}  // namespace quant
