// What a dataset says of its storage, compared with what is there: no size in a file is taken at its word.
#pragma once

#include <cstdint>
#include <string>

#include "report/hdf5_handle.h"

namespace quant::hdf5 {

struct StorageLimits {
  std::uint64_t file_bytes = 0;   ///< size of the file
  std::uint64_t chunk_bytes = 0;  ///< HDF5 allocates whole chunks, however few values they hold
};

struct Storage {
  std::uint64_t bytes = 0;       ///< that the dataset takes in the file
  std::string problem;           ///< what follows "dataset 'x' "; empty: it can be read
  std::uint64_t chunk_rows = 1;  ///< of the first dimension, in one chunk
};

/// Looks at how the values of a dataset are kept. A problem are values in other files, more bytes than the file has,
/// chunks above the limit, missing ones, and ones that cannot hold their values: so the memory for all values, and what
/// HDF5 takes to read one chunk, is bounded by what the file has. `action` names dataset and file's use in the errors
/// of HDF5 itself, which are thrown.
Storage look_at_storage(const report::Hdf5Session& session, hid_t dataset, const StorageLimits& limits,
                        const std::string& action);

}  // namespace quant::hdf5
