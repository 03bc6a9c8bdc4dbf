// Files of calibration statistics with any datasets, shapes, types and values. The input is text, from which a sound
// HDF5 file is made: the library's own parser of damaged files is not what is tested here.
//   version 1                     the attribute schema_version
//   module <name> <tokens> <cols> a group with its attributes
//   <dataset> <type> <shape> <value> ...   f2, f4, f8, i4; with a z before it chunked and deflated; shape as 2x3.
//   Values
//                                 that are not given are 0.
// Only quant::Error may come out. What is read is sound, and is the same when it was written and is read again.
#include <hdf5.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/statistics_file.h"
#include "support/temp_dir.h"

namespace {

constexpr std::uint64_t kMostValues = 1 << 14;

void require(bool condition) {
  if (!condition) std::abort();
}

void set_attribute(hid_t object, const char* name, std::uint64_t value) {
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute >= 0) {
    H5Awrite(attribute, H5T_NATIVE_UINT64, &value);
    H5Aclose(attribute);
  }
  H5Sclose(space);
}

hid_t half_type() {
  const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(type, 15, 10, 5, 0, 10);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, 15);
  return type;
}

hid_t stored_type(const std::string& name) {
  if (name == "f2") return half_type();
  return H5Tcopy(name == "f8" ? H5T_IEEE_F64LE : name == "i4" ? H5T_STD_I32LE : H5T_IEEE_F32LE);
}

void add_dataset(hid_t group, const std::string& name, std::istringstream& fields) {
  std::string type;
  std::string sizes;
  fields >> type >> sizes;
  std::vector<hsize_t> shape;
  std::istringstream list(sizes);
  std::uint64_t values = 1;
  for (hsize_t size = 0; shape.size() < 4 && list >> size && values <= kMostValues; list.ignore(1)) {
    shape.push_back(std::min<hsize_t>(size, kMostValues + 1));
    values *= shape.back();
  }
  if (values > kMostValues) return;
  std::vector<double> content(std::max<std::uint64_t>(values, 1));
  std::string word;
  for (std::uint64_t i = 0; i < values && fields >> word; ++i) content[i] = std::strtod(word.c_str(), nullptr);

  const bool deflated = type.starts_with("z");
  const hid_t stored = stored_type(type.substr(deflated ? 1 : 0));
  const hid_t space =
      shape.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (deflated && values > 0 && !shape.empty()) {
    H5Pset_chunk(creation, static_cast<int>(shape.size()), shape.data());
    H5Pset_deflate(creation, 1);
  }
  const hid_t dataset = H5Dcreate2(group, name.c_str(), stored, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  if (dataset >= 0) {
    H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, content.data());
    H5Dclose(dataset);
  }
  H5Pclose(creation);
  H5Sclose(space);
  H5Tclose(stored);
}

void make_file(const std::filesystem::path& path, const std::string& text) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t inputs = H5Gcreate2(file, "inputs", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  require(file >= 0 && inputs >= 0);
  hid_t group = -1;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string word;
    fields >> word;
    if (word == "version") {
      std::uint64_t version = 0;
      if (fields >> version) set_attribute(file, "schema_version", version);
    } else if (word == "module") {
      if (group >= 0) H5Gclose(group);
      std::string name;
      fields >> name;
      group = H5Gcreate2(inputs, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      std::uint64_t number = 0;
      if (group >= 0 && fields >> number) set_attribute(group, "tokens", number);
      if (group >= 0 && fields >> number) set_attribute(group, "cols", number);
    } else if (group >= 0) {
      add_dataset(group, word, fields);
    }
  }
  if (group >= 0) H5Gclose(group);
  H5Gclose(inputs);
  H5Fclose(file);
}

void check_sound(const quant::InputStatistics& read, const quant::StatisticsSummary& summary) {
  const std::uint64_t cols = read.cols;
  require(cols > 0 && summary.cols == cols && summary.tokens == read.tokens);
  // Magnitudes and ranges are there together.
  for (const auto* part : {&read.absmax, &read.minimum, &read.maximum}) {
    require(part->size() == (summary.parts.absmax ? cols : 0));
  }
  require(read.mean_abs.size() == (summary.parts.mean_abs ? cols : 0));
  require(read.gram.size() == (summary.parts.gram ? cols * cols : 0));
  require(read.cross_gram.size() == (summary.parts.cross_gram ? cols * cols : 0));
  require(read.rows.size() % cols == 0 && read.rows.size() / cols <= quant::kSampleRows);
  for (const auto* part : {&read.absmax, &read.minimum, &read.maximum, &read.mean_abs, &read.gram, &read.rows}) {
    require(std::all_of(part->begin(), part->end(), [](float value) { return std::isfinite(value); }));
  }
  for (std::uint64_t c = 0; c < read.absmax.size(); ++c) {
    require(read.absmax[c] >= 0 && read.minimum[c] <= read.maximum[c]);
  }
  for (std::uint64_t r = 0; r * cols < read.gram.size(); ++r) {
    require(read.gram[r * cols + r] >= 0);
    for (std::uint64_t c = 0; c < r; ++c) require(read.gram[r * cols + c] == read.gram[c * cols + r]);
  }
}

bool same(const quant::InputStatistics& a, const quant::InputStatistics& b) {
  return a.tokens == b.tokens && a.cols == b.cols && a.absmax == b.absmax && a.minimum == b.minimum &&
         a.maximum == b.maximum && a.mean_abs == b.mean_abs && a.gram == b.gram && a.cross_gram == b.cross_gram &&
         a.rows == b.rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quant::test::TempDir folder(quant::test::memory_folder());
  const std::filesystem::path file = folder / "statistics.h5";
  make_file(file, std::string(reinterpret_cast<const char*>(data), size));
  std::map<std::string, quant::InputStatistics> all;
  try {
    const quant::StatisticsFileReader reader(file);
    for (const std::string& module : reader.modules()) {
      try {
        const quant::StatisticsSummary summary = reader.describe(module);
        quant::InputStatistics read = reader.read(module);
        check_sound(read, summary);
        all.emplace(module, std::move(read));
      } catch (const quant::Error& error) {
        require(error.code() == quant::ErrorCode::corrupt_file);
      }
    }
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file || error.code() == quant::ErrorCode::unsupported);
    return 0;
  }
  quant::write_statistics(folder / "again.h5", {}, all);
  const auto again = quant::read_statistics(folder / "again.h5");
  require(again.size() == all.size());
  for (const auto& [module, statistics] : all) require(same(again.at(module), statistics));
  return 0;
}
