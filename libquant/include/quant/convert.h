// Copies of checkpoints in another container, and in another layout of quantized weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/logical_tensors.h"
#include "quant/metrics.h"

namespace quant {

class Quantizer;

struct ConvertOptions {
  std::filesystem::path output;          ///< must not exist
  const Container* container = nullptr;  ///< null: HDF5
  int compression = 4;                   ///< of HDF5: 0 (none) to 9
  bool overwrite_partial = false;        ///< discard what a killed run left in "<output>.partial"
  ScanOptions scan = {};                 ///< `threads` is not used; units of progress are bytes
};

struct ConvertResult {
  std::size_t tensors = 0;
  std::uint64_t bytes_before = 0;  ///< of the files with tensors
  std::uint64_t bytes_after = 0;
};

/// Copies every tensor as it is, packed ones too, into one file "model.h5" (docs/native-layout.md) or "model" with the
/// container's extension; config.json and the small files beside it as well. The files' metadata is kept: of a key that
/// several have, the first file's value; a container other than HDF5 gets "format": "pt" where none has that key.
/// Writes into "<output>.partial" and renames at the end; on failure the partial directory is removed. Throws Error{io}
/// if the output exists or cannot be written, Error{usage} for a level out of range, what write_hdf5_tensors refuses,
/// what reading throws, and Error{interrupted} between two tensors.
ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const ConvertOptions& options);

// ---- another layout

/// Why codes of a matrix with arguments `from` cannot be moved into arguments `to`, whatever its values are, or
/// nothing. They can where `to` has the same kind of numbers with as many bits or more, a grid of scales that parts
/// that of `from` further or not at all, and zero points if `from` has any.
std::optional<std::string> why_not_movable(const QuantArgs& from, const QuantArgs& to, std::uint64_t rows,
                                           std::uint64_t cols);

/// The same matrix (or slice of whole units of rows) under other arguments: codes, zero points and scales are moved,
/// and every dequantized value stays the same float. `scale_dtype`: the type in which scales will be stored. Throws
/// Error{unsupported, "NotExact"} with the reason where why_not_movable gives one or a scale is no value of that type.
void move_codes(const QuantizedTensor& from, const QuantArgs& to, DType scale_dtype, QuantizedTensor& out);

/// True if `value` is a value of `type` (F32, F16 or BF16, for other types: if rounding to it changes nothing).
bool is_exact_in(DType type, float value);

struct LayoutConversionOptions {
  std::filesystem::path output;               ///< must not exist
  const Layout* layout = nullptr;             ///< of the output
  std::optional<std::string> format;          ///< Scheme::format of every linear; null: the layout chooses
  const Container* container = nullptr;       ///< of the output
  std::uint64_t shard_bytes = 5'000'000'000;  ///< largest size of an output file
  const Quantizer* requantizer = nullptr;     ///< rounds again what the layout cannot hold exactly; null: refuse it
  std::optional<QuantArgs> requantized = {};  ///< arguments of what is rounded again; null: the nearest that fit
  bool weights_only = false;                  ///< how inputs and caches are quantized may be left out
  bool overwrite_partial = false;             ///< discard what a killed run left in "<output>.partial"
  ScanOptions scan = {};
};

/// What became of a quantized linear.
struct ConvertedLinear {
  std::string module;
  QuantArgs from;
  Scheme to;
  std::string reason;  ///< why it had to be rounded again; empty: its codes were moved
  ErrorSums sums;      ///< of the new values against the old; all 0 where codes were moved

  bool exact() const { return reason.empty(); }
};

struct LayoutConversionResult {
  std::vector<ConvertedLinear> linears;
  std::vector<std::string> notes;  ///< what was left out
  ErrorSums lost;                  ///< of all linears that were rounded again
  std::size_t tensors = 0;         ///< written
  std::size_t files = 0;           ///< written
  std::uint64_t bytes_before = 0;  ///< of all tensors
  std::uint64_t bytes_after = 0;
};

/// Writes a quantized checkpoint in another layout. Codes, zero points and scales are moved and never rounded again,
/// unless `requantizer` is given; then only what the layout cannot hold. What it cannot is found before anything is
/// written. Other tensors and the small files are copied, without reports, recipe and the old layout's own files.
/// Converting there and back gives the same bytes of all tensors where nothing was rounded and the first layout writes
/// what it reads. Memory is that of the largest linear as it is stored and of a block of rows for each thread. The
/// result does not depend on threads. Writes into "<output>.partial" and renames at the end; on failure the partial
/// directory is removed. Throws Error{usage} for a checkpoint that is not quantized, Error{unsupported, "NotExact"}
/// with a sentence for each reason, Error{io}, Error{interrupted}, and what reading throws.
LayoutConversionResult convert_layout(const Checkpoint& checkpoint, const Registry& registry,
                                      const LayoutConversionOptions& options);

}  // namespace quant
