#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "file_metadata.h"
#include "hdf5_tensor_types.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"

namespace quant {
namespace {

using hdf5::Hdf5Handle;
using hdf5::Hdf5Session;

constexpr std::uint64_t kPieceBytes = 16U << 20U;

bool has_children(const std::set<std::string, std::less<>>& names, const std::string& name) {
  const auto next = names.lower_bound(name + ".");
  return next != names.end() && next->starts_with(name + ".");
}

// Where the name of one tensor is the path of others, it gets a link of its own below it. Empty for a name with an
// empty part.
std::string dataset_path(const std::set<std::string, std::less<>>& names, const std::string& name) {
  std::string path;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    if (end == begin) return {};
    path += (path.empty() ? "" : "/") + report::hdf5_link_name(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return has_children(names, name) ? path + "/" + std::string(hdf5::kOwnLink) : path;
}

// About 2^20 bytes: whole rows, or part of one.
std::vector<hsize_t> chunk_of(const std::vector<hsize_t>& sizes, std::uint64_t element_bytes) {
  std::vector<hsize_t> chunk(sizes.size(), 1);
  std::uint64_t left = std::max<std::uint64_t>(1, hdf5::kChunkBytes / element_bytes);
  for (std::size_t i = sizes.size(); i-- > 0;) {
    chunk[i] = std::clamp<hsize_t>(left, 1, std::max<hsize_t>(1, sizes[i]));
    left = std::max<std::uint64_t>(1, left / chunk[i]);
  }
  return chunk;
}

void write_text(const Hdf5Session& session, hid_t object, const char* key, const std::string& value) {
  const Hdf5Handle type = session.need(H5Tcopy(H5T_C_S1), H5Tclose, "make a type");
  session.need(H5Tset_size(type.get(), std::max<std::size_t>(1, value.size())), "make a type");
  session.need(H5Tset_cset(type.get(), H5T_CSET_UTF8), "make a type");
  const Hdf5Handle space = session.need(H5Screate(H5S_SCALAR), H5Sclose, "make a space");
  const Hdf5Handle attribute = session.need(H5Acreate2(object, key, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                                            H5Aclose, fmt::format("write the attribute '{}'", key));
  const std::string padded = value.empty() ? std::string(1, '\0') : value;
  session.need(H5Awrite(attribute.get(), type.get(), padded.data()), fmt::format("write the attribute '{}'", key));
}

class Writer {
 public:
  Writer(const std::filesystem::path& path, const Checkpoint& checkpoint, int level)
      : path_(path.string()), checkpoint_(checkpoint), level_(level) {
    for (const TensorInfo& info : checkpoint.tensors()) names_.insert(info.name);
  }

  void write() {
    check();
    hid_t file = -1;
    {
      const Hdf5Session session(path_, ErrorCode::io);
      const Hdf5Handle access = session.need(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "prepare");
      session.need(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST), "prepare");
      // No time stamps, here and in groups and datasets: equal tensors are equal bytes.
      const Hdf5Handle creation = session.need(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "prepare");
      session.need(H5Pset_obj_track_times(creation.get(), false), "prepare");
      file = H5Fcreate(path_.c_str(), H5F_ACC_EXCL, creation.get(), access.get());
      if (file < 0) session.fail("create the file");
    }
    try {
      write_metadata(file);
      for (const TensorInfo& info : checkpoint_.tensors()) write_tensor(file, info);
    } catch (...) {
      const Hdf5Session session(path_, ErrorCode::io);
      H5Fclose(file);
      throw;
    }
    const Hdf5Session session(path_, ErrorCode::io);
    session.need(H5Fclose(file), "write the file's end");
  }

 private:
  // All that the reader would refuse, before there is a file.
  void check() const {
    for (const CheckpointFile& part : checkpoint_.files()) {
      for (const auto& [key, value] : part.metadata) {
        const std::size_t size = std::string_view(hdf5::kMetadataPrefix).size() + key.size();
        if (size > hdf5::kMostKey || key.find('\0') != std::string::npos) {
          refuse(fmt::format("the metadata's key '{}' of {} bytes", key.substr(0, 100), key.size()),
                 fmt::format("at most {} bytes, none of them 0, are", hdf5::kMostKey));
        }
        if (value.size() > hdf5::kMostText) {
          refuse(fmt::format("the metadata of key '{}', {} bytes,", key, value.size()),
                 fmt::format("at most {} are", hdf5::kMostText));
        }
      }
    }
    const Hdf5Session session(path_, ErrorCode::io);
    for (const TensorInfo& info : checkpoint_.tensors()) {
      const std::string link = dataset_path(names_, info.name);
      if (link.empty()) refuse(fmt::format("tensor '{}'", info.name), "a part of its name is empty");
      if (std::count(link.begin(), link.end(), '/') > hdf5::kMostDepth || link.size() > hdf5::kMostText) {
        refuse(fmt::format("tensor '{}...'", info.name.substr(0, 100)),
               fmt::format("names of at most {} parts and {} bytes are", hdf5::kMostDepth, hdf5::kMostText));
      }
      if (hdf5::element_type(info.dtype).file_type < 0) {
        refuse(fmt::format("tensor '{}'", info.name),
               fmt::format("there is no type of HDF5 for {}", dtype_name(info.dtype)));
      }
    }
  }
  [[noreturn]] void refuse(const std::string& what, const std::string& why) const {
    throw Error(ErrorCode::unsupported, fmt::format("{}: {} cannot be stored as HDF5: {}", path_, what, why));
  }

  // Of keys that several files have, the first file's value counts.
  void write_metadata(hid_t file) const {
    const Hdf5Session session(path_, ErrorCode::io);
    write_text(session, file, hdf5::kFormatKey, hdf5::kFormatValue);
    for (const auto& [key, value] : merged_metadata(checkpoint_)) {
      write_text(session, file, (hdf5::kMetadataPrefix + key).c_str(), value);
    }
  }

  // All groups on the way to `link` that are not there yet.
  void make_groups(const Hdf5Session& session, hid_t file, const std::string& link) {
    for (std::size_t end = link.find('/'); end != std::string::npos; end = link.find('/', end + 1)) {
      const std::string name = link.substr(0, end);
      if (!groups_.insert(name).second) continue;
      const std::string action = fmt::format("make the group '{}'", name);
      const Hdf5Handle creation = session.need(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, action);
      session.need(H5Pset_obj_track_times(creation.get(), false), action);
      session.need(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose, action);
    }
  }

  void write_tensor(hid_t file, const TensorInfo& info) {
    const hdf5::ElementType element = [&] {
      const Hdf5Session session(path_, ErrorCode::io);
      return hdf5::element_type(info.dtype);
    }();
    std::vector<hsize_t> sizes(info.shape.begin(), info.shape.end());
    const std::string link = dataset_path(names_, info.name);
    const std::string action = fmt::format("write the dataset '{}'", link);
    const bool empty = info.bytes == 0;
    hid_t id = -1;
    {
      const Hdf5Session session(path_, ErrorCode::io);
      make_groups(session, file, link);
      const Hdf5Handle creation = session.need(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, action);
      session.need(H5Pset_obj_track_times(creation.get(), false), action);
      if (!sizes.empty() && !empty) {
        const auto chunk = chunk_of(sizes, element.bytes);
        session.need(H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()), action);
        if (level_ > 0) {
          session.need(H5Pset_shuffle(creation.get()), action);
          session.need(H5Pset_deflate(creation.get(), static_cast<unsigned>(level_)), action);
        }
      }
      const Hdf5Handle space =
          session.need(sizes.empty() ? H5Screate(H5S_SCALAR)
                                     : H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr),
                       H5Sclose, action);
      Hdf5Handle dataset = session.need(
          H5Dcreate2(file, link.c_str(), element.file_type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
          H5Dclose, action);
      write_text(session, dataset.get(), hdf5::kTypeKey, std::string(dtype_name(info.dtype)));
      id = dataset.release();
    }
    try {
      if (!empty) write_values(id, info, element.memory_type, sizes, action);
    } catch (...) {
      const Hdf5Session session(path_, ErrorCode::io);
      H5Dclose(id);
      throw;
    }
    const Hdf5Session session(path_, ErrorCode::io);
    session.need(H5Dclose(id), action);
  }

  // In pieces of whole rows, so that other threads get their turn and pages can be left behind.
  void write_values(hid_t dataset, const TensorInfo& info, hid_t type, const std::vector<hsize_t>& sizes,
                    const std::string& action) const {
    const TensorView view = checkpoint_.view(info);
    const std::uint64_t rows = sizes.empty() ? 1 : sizes[0], row_bytes = info.bytes / rows;
    // Whole chunks: a chunk that is written in parts is compressed as often.
    const std::uint64_t chunk = sizes.empty() ? 1 : chunk_of(sizes, dtype_bits(info.dtype) / 8)[0];
    const std::uint64_t step =
        chunk * std::max<std::uint64_t>(1, kPieceBytes / std::max<std::uint64_t>(1, chunk * row_bytes));
    for (std::uint64_t first = 0; first < rows; first += step) {
      const std::uint64_t count = std::min(step, rows - first);
      const auto bytes = view.bytes.subspan(first * row_bytes, count * row_bytes);
      const Hdf5Session session(path_, ErrorCode::io);
      hdf5::transfer(session, dataset, sizes, first, count, action, [&](hid_t memory, hid_t file_space) {
        return H5Dwrite(dataset, type, memory, file_space, H5P_DEFAULT, bytes.data());
      });
      checkpoint_.done_reading({info.dtype, {bytes.size()}, bytes});
    }
  }

  std::string path_;
  const Checkpoint& checkpoint_;
  int level_;
  std::set<std::string, std::less<>> names_;
  std::set<std::string> groups_;  // made so far
};

}  // namespace

void write_hdf5_tensors(const std::filesystem::path& path, const Checkpoint& checkpoint, int level) {
  if (level < 0 || level > 9) {
    throw Error(ErrorCode::usage, fmt::format("compression level {} is not from 0 to 9", level));
  }
  Writer(path, checkpoint, level).write();
}

}  // namespace quant
