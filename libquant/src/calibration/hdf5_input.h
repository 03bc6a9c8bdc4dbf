// Reading an HDF5 file that is not trusted: no link leaves it, no size is taken at its word.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "report/hdf5_handle.h"

namespace quant::calibration {

/// An open file. While it lives, this thread alone uses HDF5.
class Hdf5Input {
 public:
  /// Throws Error{io} if the file cannot be opened, Error{corrupt_file} if it is no HDF5 file. `kind` goes into
  /// Error::kind of what is wrong in it.
  Hdf5Input(const std::filesystem::path& file, std::string kind);

  /// Whether there is an object "a/b/c". Soft and external links are refused: they could lead into other files.
  bool has(const std::string& path) const;
  /// Names of the links in a group, in their order of names.
  std::vector<std::string> names(const std::string& group) const;

  /// A dataset with as many values as its storage can hold.
  struct Array {
    report::Hdf5Handle dataset;
    std::string path;
    std::vector<std::uint64_t> shape;
    std::uint64_t values = 0;
    std::uint64_t chunk_rows = 1;  ///< HDF5 unpacks so many together, each time that some of them are read
  };
  /// `type`: H5T_INTEGER or H5T_FLOAT.
  Array open_array(const std::string& path, H5T_class_t type) const;
  /// Reads the rows [first, first + count) of the first dimension as `memory_type` into `out`.
  void read_rows(const Array& array, std::uint64_t first, std::uint64_t count, hid_t memory_type, void* out) const;

  /// A whole number that is an attribute of an object; a text likewise.
  std::uint64_t whole(const std::string& object, const char* name) const;
  std::string text(const std::string& object, const char* name) const;
  bool has_attribute(const std::string& object, const char* name) const;

  /// Throws Error{corrupt_file} naming the file.
  [[noreturn]] void wrong(const std::string& path, const std::string& what) const;

 private:
  void check_storage(Array& array) const;
  report::Hdf5Handle open_attribute(const std::string& object, const char* name) const;

  std::string name_;
  std::string kind_;
  report::Hdf5Session session_;
  report::Hdf5Handle file_;
};

}  // namespace quant::calibration
