#include "calibration/hdf5_input.h"

#include <algorithm>
#include <fstream>
#include <string_view>

#include "hdf5_storage.h"
#include "quant/error.h"

namespace quant::calibration {

namespace {

using report::Hdf5Handle;

constexpr std::uint64_t kMaxChunk = 8 << 20;  // bytes, for arrays that are smaller
constexpr std::uint64_t kMaxText = 1 << 20;   // bytes of an attribute
constexpr std::uint64_t kMaxLinks = 1 << 22;

// HDF5 begins with a signature, after 0, 512, 1024, 2048, ... bytes of another format's.
const std::string& signed_name(const std::string& name) {
  constexpr std::string_view kSignature("\x89HDF\r\n\x1a\n", 8);
  std::ifstream in(name, std::ios::binary | std::ios::ate);
  if (!in) throw Error(ErrorCode::io, name + ": cannot be opened", {}, "Hdf5");
  const std::uint64_t size = static_cast<std::uint64_t>(std::max<std::streamoff>(in.tellg(), 0));
  std::string begin(kSignature.size(), '\0');
  for (std::uint64_t at = 0; at + begin.size() <= size; at = at == 0 ? 512 : 2 * at) {
    in.seekg(static_cast<std::streamoff>(at));
    in.read(begin.data(), static_cast<std::streamsize>(begin.size()));
    if (begin == kSignature) return name;
  }
  throw Error(ErrorCode::corrupt_file, name + ": is no HDF5 file", {}, "Hdf5");
}

}  // namespace

Hdf5Input::Hdf5Input(const std::filesystem::path& file, std::string kind)
    : name_(file.string()),
      kind_(std::move(kind)),
      session_(signed_name(name_), ErrorCode::corrupt_file),
      file_(session_.need(H5Fopen(name_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "read it as HDF5")) {}

void Hdf5Input::wrong(const std::string& path, const std::string& what) const {
  throw Error(ErrorCode::corrupt_file, name_ + ": '" + path.substr(0, 300) + "' " + what,
              "docs/calibration.md describes the file.", kind_);
}

bool Hdf5Input::has(const std::string& path) const {
  for (std::size_t end = path.find('/');; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (session_.need(H5Lexists(file_.get(), part.c_str(), H5P_DEFAULT), "look up '" + part + "'") == 0) return false;
    H5L_info_t info;
    session_.need(H5Lget_info(file_.get(), part.c_str(), &info, H5P_DEFAULT), "look up '" + part + "'");
    if (info.type != H5L_TYPE_HARD) wrong(part, "is a soft or external link");
    if (end == std::string::npos) return true;
  }
}

std::vector<std::string> Hdf5Input::names(const std::string& group) const {
  const std::string action = "list '" + group + "'";
  const Hdf5Handle handle = session_.need(H5Gopen2(file_.get(), group.c_str(), H5P_DEFAULT), H5Gclose, action);
  H5G_info_t info;
  session_.need(H5Gget_info(handle.get(), &info), action);
  if (info.nlinks > kMaxLinks) wrong(group, "claims " + std::to_string(info.nlinks) + " members");
  std::vector<std::string> found;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const auto get = [&](char* out, std::size_t size) {
      return session_.need(H5Lget_name_by_idx(handle.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, out, size, H5P_DEFAULT),
                           action);
    };
    std::string name(static_cast<std::size_t>(get(nullptr, 0)) + 1, '\0');
    get(name.data(), name.size());
    name.pop_back();
    found.push_back(std::move(name));
  }
  return found;
}

Hdf5Input::Array Hdf5Input::open_array(const std::string& path, H5T_class_t type) const {
  const std::string action = "read '" + path + "'";
  Array array{session_.need(H5Dopen2(file_.get(), path.c_str(), H5P_DEFAULT), H5Dclose, action), path, {}, 1, 1};
  const Hdf5Handle space = session_.need(H5Dget_space(array.dataset.get()), H5Sclose, action);
  const Hdf5Handle stored = session_.need(H5Dget_type(array.dataset.get()), H5Tclose, action);
  if (H5Tget_class(stored.get()) != type) {
    wrong(path, type == H5T_FLOAT ? "does not hold floating-point numbers" : "does not hold integers");
  }
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 1 || rank > 2) wrong(path, "has " + std::to_string(rank) + " dimensions, not one or two");
  std::vector<hsize_t> shape(static_cast<std::size_t>(rank));
  session_.need(H5Sget_simple_extent_dims(space.get(), shape.data(), nullptr), action);
  array.shape.assign(shape.begin(), shape.end());
  for (const std::uint64_t size : array.shape) array.values = checked_mul(array.values, size, name_);
  check_storage(array);
  return array;
}

void Hdf5Input::check_storage(Array& array) const {
  const std::string action = "read '" + array.path + "'";
  const Hdf5Handle stored = session_.need(H5Dget_type(array.dataset.get()), H5Tclose, action);
  const std::uint64_t bytes = checked_mul(array.values, std::max<std::size_t>(1, H5Tget_size(stored.get())), name_);
  std::error_code failed;
  const std::uint64_t file_bytes = std::filesystem::file_size(name_, failed);
  const hdf5::Storage storage = hdf5::look_at_storage(session_, array.dataset.get(),
                                                      {failed ? 0 : file_bytes, std::max(bytes, kMaxChunk)}, action);
  if (!storage.problem.empty()) wrong(array.path, storage.problem);
  array.chunk_rows = storage.chunk_rows;
}

void Hdf5Input::read_rows(const Array& array, std::uint64_t first, std::uint64_t count, hid_t memory_type,
                          void* out) const {
  const std::string action = "read '" + array.path + "'";
  hsize_t start[2] = {first, 0};
  hsize_t size[2] = {count, array.shape.size() == 2 ? array.shape[1] : 1};
  if (count == 0 || size[1] == 0) return;
  const Hdf5Handle space = session_.need(H5Dget_space(array.dataset.get()), H5Sclose, action);
  session_.need(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, size, nullptr), action);
  const Hdf5Handle memory =
      session_.need(H5Screate_simple(static_cast<int>(array.shape.size()), size, nullptr), H5Sclose, action);
  session_.need(H5Dread(array.dataset.get(), memory_type, memory.get(), space.get(), H5P_DEFAULT, out), action);
}

Hdf5Handle Hdf5Input::open_attribute(const std::string& object, const char* name) const {
  const std::string action = std::string("read the attribute '") + name + "' of '" + object + "'";
  return session_.need(H5Aopen_by_name(file_.get(), object.c_str(), name, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, action);
}

bool Hdf5Input::has_attribute(const std::string& object, const char* name) const {
  return session_.need(H5Aexists_by_name(file_.get(), object.c_str(), name, H5P_DEFAULT), "look up '" + object + "'") >
         0;
}

std::uint64_t Hdf5Input::whole(const std::string& object, const char* name) const {
  const std::string action = std::string("read the attribute '") + name + "' of '" + object + "'";
  const Hdf5Handle attribute = open_attribute(object, name);
  const Hdf5Handle type = session_.need(H5Aget_type(attribute.get()), H5Tclose, action);
  const Hdf5Handle space = session_.need(H5Aget_space(attribute.get()), H5Sclose, action);
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Sget_simple_extent_npoints(space.get()) != 1) {
    wrong(object, std::string("has an attribute '") + name + "' that is no single whole number");
  }
  std::uint64_t value = 0;
  session_.need(H5Aread(attribute.get(), H5T_NATIVE_UINT64, &value), action);
  return value;
}

std::string Hdf5Input::text(const std::string& object, const char* name) const {
  const std::string action = std::string("read the attribute '") + name + "' of '" + object + "'";
  const Hdf5Handle attribute = open_attribute(object, name);
  const Hdf5Handle type = session_.need(H5Aget_type(attribute.get()), H5Tclose, action);
  const Hdf5Handle space = session_.need(H5Aget_space(attribute.get()), H5Sclose, action);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
    wrong(object, std::string("has an attribute '") + name + "' that is no text");
  }
  if (session_.need(H5Tis_variable_str(type.get()), action) > 0) {
    char* text = nullptr;
    session_.need(H5Aread(attribute.get(), type.get(), &text), action);
    std::string value = text == nullptr ? "" : text;
    H5Dvlen_reclaim(type.get(), space.get(), H5P_DEFAULT, &text);
    return value;
  }
  const std::size_t size = H5Tget_size(type.get());
  if (size > kMaxText) wrong(object, std::string("has an attribute '") + name + "' that is too long");
  std::string value(size, '\0');
  session_.need(H5Aread(attribute.get(), type.get(), value.data()), action);
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

}  // namespace quant::calibration
