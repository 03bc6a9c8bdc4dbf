// Writes a checkpoint as plain floating-point weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "quant/logical_tensors.h"

namespace quant {

struct DequantizeOptions {
  std::filesystem::path output;               ///< must not exist
  std::optional<DType> dtype;                 ///< F32, F16 or BF16 for all floating tensors; null: each tensor's own
  std::uint64_t shard_bytes = 5'000'000'000;  ///< largest size of an output file (a single larger tensor gets its own)
  bool overwrite_partial = false;             ///< discard what a killed run left in "<output>.partial"
  ScanOptions scan;
};

struct DequantizeResult {
  std::uint64_t bytes_before = 0;  ///< tensor bytes
  std::uint64_t bytes_after = 0;
  std::size_t linears = 0;  ///< weights that were quantized
  std::size_t tensors = 0;
  std::size_t files = 0;  ///< shards written
};

/// Copies the model, with every quantized weight replaced by its float values, quantization_config removed from
/// config.json, and the small files beside it. Streams blocks of rows; memory does not grow with the model. Writes into
/// "<output>.partial" and renames at the end; on failure the partial directory is removed.
/// Throws Error{usage} for a dtype that is no plain float, Error{io} if the output exists or cannot be written,
/// Error{numerical} naming the tensor if a finite value overflows the chosen type, Error{unsupported} and
/// Error{corrupt_file} as LogicalTensors, Error{interrupted}.
DequantizeResult dequantize_checkpoint(const Checkpoint& checkpoint, const Registry& registry,
                                       const Container& container, const DequantizeOptions& options);

}  // namespace quant
