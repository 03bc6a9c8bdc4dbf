// Copies of checkpoints in another container.
#pragma once

#include <cstdint>
#include <filesystem>

#include "quant/checkpoint.h"

namespace quant {

struct ConvertOptions {
  std::filesystem::path output;          ///< must not exist
  const Container* container = nullptr;  ///< null: HDF5
  int compression = 4;                   ///< of HDF5: 0 (none) to 9
  bool overwrite_partial = false;        ///< discard what a killed run left in "<output>.partial"
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
/// and what reading throws.
ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const ConvertOptions& options);

}  // namespace quant
