#include "hdf5_storage.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace quant::hdf5 {
namespace {

using report::Hdf5Handle;
using report::Hdf5Session;

constexpr std::uint64_t kMostCompression = 1040;  // deflate's largest ratio is 1032

// Products of hostile sizes; whatever is compared with the largest number is too large.
std::uint64_t product(std::uint64_t a, std::uint64_t b) {
  std::uint64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? std::numeric_limits<std::uint64_t>::max() : result;
}

// Of a dataset in chunks.
struct Chunks {
  std::vector<hsize_t> sizes, chunk;
  std::uint64_t bytes = 0;  // of one
  std::uint64_t count = 0;  // that the shape needs
};

std::vector<hsize_t> sizes_of(const Hdf5Session& session, hid_t space, const std::string& action) {
  std::vector<hsize_t> sizes(static_cast<std::size_t>(session.need(H5Sget_simple_extent_ndims(space), action)));
  session.need(H5Sget_simple_extent_dims(space, sizes.data(), nullptr), action);
  return sizes;
}

// A filter that is there twice multiplies its ratio.
std::string filter_problem(const Hdf5Session& session, hid_t creation, int filters, const std::string& action) {
  std::vector<H5Z_filter_t> seen;
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter = session.need(
        H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, nullptr), action);
    if (std::find(seen.begin(), seen.end(), filter) != seen.end()) {
      return fmt::format("has the filter {} twice", static_cast<int>(filter));
    }
    seen.push_back(filter);
  }
  return {};
}

Chunks chunks_of(const Hdf5Session& session, std::vector<hsize_t> sizes, hid_t creation, std::uint64_t element,
                 const std::string& action) {
  Chunks chunks;
  chunks.sizes = std::move(sizes);
  chunks.chunk.resize(chunks.sizes.size());
  const int rank =
      session.need(H5Pget_chunk(creation, static_cast<int>(chunks.chunk.size()), chunks.chunk.data()), action);
  if (static_cast<std::size_t>(rank) != chunks.chunk.size()) session.fail(action);
  chunks.bytes = element;
  chunks.count = 1;
  for (std::size_t i = 0; i < chunks.sizes.size(); ++i) {
    if (chunks.chunk[i] == 0) session.fail(action);
    chunks.bytes = product(chunks.bytes, chunks.chunk[i]);
    chunks.count = product(chunks.count, chunks.sizes[i] / chunks.chunk[i] + (chunks.sizes[i] % chunks.chunk[i] != 0));
  }
  return chunks;
}

// HDF5 unpacks as much as a chunk's bytes give, and looks at their number afterwards.
std::string packed_problem(const Hdf5Session& session, hid_t dataset, const Chunks& chunks, const std::string& action) {
  const std::uint64_t most = chunks.bytes + chunks.bytes / 16 + 1024;
  std::vector<hsize_t> at(chunks.sizes.size(), 0);
  for (std::uint64_t i = 0; i < chunks.count; ++i) {
    hsize_t bytes = 0;
    session.need(H5Dget_chunk_storage_size(dataset, at.data(), &bytes), action);
    if (bytes > most || chunks.bytes / kMostCompression > bytes) {
      return fmt::format("keeps a chunk of {} bytes in {}", chunks.bytes, bytes);
    }
    for (std::size_t d = at.size(); d-- > 0;) {
      at[d] += chunks.chunk[d];
      if (at[d] < chunks.sizes[d]) break;
      at[d] = 0;
    }
  }
  return {};
}

}  // namespace

Storage look_at_storage(const Hdf5Session& session, hid_t dataset, const StorageLimits& limits,
                        const std::string& action) {
  const Hdf5Handle creation = session.need(H5Dget_create_plist(dataset), H5Pclose, action);
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if ((layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) ||
      H5Pget_external_count(creation.get()) > 0) {
    return {0, "takes its data from other files", 1};
  }
  const int filters = session.need(H5Pget_nfilters(creation.get()), action);
  if (std::string problem = filter_problem(session, creation.get(), filters, action); !problem.empty()) {
    return {0, std::move(problem), 1};
  }
  const Hdf5Handle type = session.need(H5Dget_type(dataset), H5Tclose, action);
  const std::uint64_t element = std::max<std::size_t>(1, H5Tget_size(type.get()));
  const Hdf5Handle space = session.need(H5Dget_space(dataset), H5Sclose, action);
  const std::vector<hsize_t> sizes = sizes_of(session, space.get(), action);
  std::uint64_t values = 1;
  for (const hsize_t size : sizes) values = product(values, size);
  const std::uint64_t bytes = product(values, element);
  Storage storage{H5Dget_storage_size(dataset), {}, 1};
  if (storage.bytes > limits.file_bytes) {
    storage.problem = fmt::format("says that it takes {} bytes of a file of {}", storage.bytes, limits.file_bytes);
    return storage;
  }
  const bool chunked = layout == H5D_CHUNKED && bytes > 0;
  const Chunks chunks = chunked ? chunks_of(session, sizes, creation.get(), element, action) : Chunks{};
  if (!chunks.chunk.empty()) storage.chunk_rows = chunks.chunk.front();
  hsize_t stored = 0;
  if (chunked) session.need(H5Dget_num_chunks(dataset, space.get(), &stored), action);
  if (chunks.bytes > limits.chunk_bytes) {
    storage.problem = fmt::format("has chunks of {} bytes; at most {} are read", chunks.bytes, limits.chunk_bytes);
  } else if (bytes / (filters > 0 ? kMostCompression : 1) > storage.bytes) {
    storage.problem = fmt::format("claims {} values, {} bytes, but {} bytes are stored", values, bytes, storage.bytes);
  } else if (chunked && stored != chunks.count) {
    storage.problem = fmt::format("has {} chunks, but {} are stored", chunks.count, stored);
  } else if (chunked && filters > 0) {
    storage.problem = packed_problem(session, dataset, chunks, action);
  }
  return storage;
}

}  // namespace quant::hdf5
