// What writing and reading of tensors in HDF5 files share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quant/dtype.h"
#include "report/hdf5_handle.h"

namespace quant::hdf5 {

using report::Hdf5Handle;
using report::Hdf5Session;

inline constexpr const char* kTypeKey = "dtype";
inline constexpr const char* kFormatKey = "format";
inline constexpr const char* kFormatValue = "libquant tensors 1";
inline constexpr const char* kMetadataPrefix = "metadata.";
// What is read is what may be written.
inline constexpr std::size_t kMostText = 1U << 20U;      ///< bytes of an attribute's value, or of a link's name
inline constexpr std::size_t kMostKey = 4095;            ///< bytes of an attribute's name
inline constexpr int kMostDepth = 64;                    ///< groups around a dataset
inline constexpr std::uint64_t kChunkBytes = 1U << 20U;  ///< about as many are written
inline constexpr std::string_view kOwnLink = "%";        ///< the tensor whose name is the path of its group

/// HDF5's types of an element. Types that HDF5 has no numbers for are stored as unsigned bits.
struct ElementType {
  hid_t file_type = -1;  ///< not owned; negative: cannot be stored
  hid_t memory_type = -1;
  std::uint64_t bytes = 0;
};
/// Needs a session, which opens HDF5's own types.
ElementType element_type(DType type);

/// Calls act(memory space, file space) for rows [first, first + count) of a dataset of these sizes; none: a scalar.
template <class Act>
void transfer(const Hdf5Session& session, hid_t dataset, const std::vector<hsize_t>& sizes, std::uint64_t first,
              std::uint64_t count, const std::string& action, const Act& act) {
  const Hdf5Handle file_space = session.need(H5Dget_space(dataset), H5Sclose, action);
  if (sizes.empty()) {
    session.need(act(H5S_ALL, H5S_ALL), action);
    return;
  }
  std::vector<hsize_t> start(sizes.size(), 0), part = sizes;
  start[0] = first;
  part[0] = count;
  session.need(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, part.data(), nullptr),
               action);
  const Hdf5Handle memory =
      session.need(H5Screate_simple(static_cast<int>(part.size()), part.data(), nullptr), H5Sclose, action);
  session.need(act(memory.get(), file_space.get()), action);
}

}  // namespace quant::hdf5
