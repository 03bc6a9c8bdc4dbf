// Reads the arrays of an HDF5 report back. The file is not trusted: no link leaves it, no size is taken at its word.
#include <algorithm>
#include <fstream>

#include "quant/report.h"
#include "report/hdf5_handle.h"

namespace quant {

namespace {

using report::Hdf5Handle;
using report::Hdf5Session;

constexpr std::uint64_t kMaxChunk = 1 << 20;  // HDF5 allocates whole chunks, however few values they hold

void check_readable(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error) || !std::ifstream(path, std::ios::binary)) {
    throw Error(
        ErrorCode::io,
        path.string() + ": cannot open the report (" + (error ? error.message() : "not a readable regular file") + ")",
        "Give the report.h5 that lies beside the compressed checkpoint.");
  }
}

class ArrayReader {
 public:
  explicit ArrayReader(const std::filesystem::path& path)
      : name_(path.string()), session_(name_, ErrorCode::corrupt_file), file_(open(path)) {}

  /// The array `name` of the layer; empty where the file has none.
  std::vector<float> read(const LayerReport& layer, const char* name, std::uint64_t most) const {
    const std::string group = "layers/" + report::hdf5_link_name(layer.module);
    const std::string dataset = group + "/" + name;
    if (!has_link("layers") || !has_link(group) || !has_link(dataset)) return {};
    return read_line(dataset, most);
  }

 private:
  Hdf5Handle open(const std::filesystem::path& path) const {
    return session_.need(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "read it as HDF5");
  }

  // Soft and external links are refused: they could lead into other files.
  bool has_link(const std::string& link) const {
    if (session_.need(H5Lexists(file_.get(), link.c_str(), H5P_DEFAULT), "look up '" + link + "'") == 0) return false;
    H5L_info_t info;
    session_.need(H5Lget_info(file_.get(), link.c_str(), &info, H5P_DEFAULT), "look up '" + link + "'");
    if (info.type != H5L_TYPE_HARD) wrong(link, "is a soft or external link");
    return true;
  }

  std::vector<float> read_line(const std::string& link, std::uint64_t most) const {
    const std::string action = "read '" + link + "'";
    const Hdf5Handle dataset = session_.need(H5Dopen2(file_.get(), link.c_str(), H5P_DEFAULT), H5Dclose, action);
    const Hdf5Handle space = session_.need(H5Dget_space(dataset.get()), H5Sclose, action);
    const Hdf5Handle type = session_.need(H5Dget_type(dataset.get()), H5Tclose, action);
    if (H5Tget_class(type.get()) != H5T_FLOAT) wrong(link, "does not hold floating-point numbers");
    if (H5Sget_simple_extent_ndims(space.get()) != 1) wrong(link, "has not exactly one dimension");
    const auto points = static_cast<std::uint64_t>(session_.need(H5Sget_simple_extent_npoints(space.get()), action));
    check_size(link, dataset.get(), points, most);
    std::vector<float> values(points);
    if (points > 0) {
      session_.need(H5Dread(dataset.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), action);
    }
    return values;
  }

  void check_size(const std::string& link, hid_t dataset, std::uint64_t points, std::uint64_t most) const {
    if (points > most) {
      wrong(link, "has " + std::to_string(points) + " values, but the layer admits " + std::to_string(most));
    }
    const Hdf5Handle creation = session_.need(H5Dget_create_plist(dataset), H5Pclose, "read '" + link + "'");
    const H5D_layout_t layout = H5Pget_layout(creation.get());
    if (layout == H5D_VIRTUAL || H5Pget_external_count(creation.get()) > 0)
      wrong(link, "takes its data from other files");
    hsize_t chunk = 0;
    if (layout == H5D_CHUNKED && H5Pget_chunk(creation.get(), 1, &chunk) == 1 && chunk > std::max(points, kMaxChunk)) {
      wrong(link, "has chunks of " + std::to_string(chunk) + " values for " + std::to_string(points) + " values");
    }
    // Deflate shrinks at most 1032-fold; more values than that were never written and would only cost memory.
    constexpr std::uint64_t kMaxDeflate = 1032;
    const std::uint64_t stored = H5Dget_storage_size(dataset);
    if (points / kMaxDeflate > stored / sizeof(float) + 1) {
      wrong(link, "claims " + std::to_string(points) + " values in " + std::to_string(stored) + " bytes");
    }
  }

  [[noreturn]] void wrong(const std::string& link, const std::string& what) const {
    throw Error(ErrorCode::corrupt_file, name_ + ": '" + link + "' " + what, {}, "InvalidReport");
  }

  std::string name_;
  Hdf5Session session_;
  Hdf5Handle file_;
};

}  // namespace

void read_report_hdf5_arrays(const std::filesystem::path& path, RunReport& report) {
  check_readable(path);
  const ArrayReader reader(path);
  for (LayerReport& layer : report.layers) {
    const std::uint64_t rows = layer.shape.empty() ? 0 : layer.shape.front();
    const std::uint64_t cols = layer.shape.size() < 2 ? 1 : layer.shape.back();
    std::vector<float> row_nmse = reader.read(layer, "row_nmse", rows);
    if (!row_nmse.empty() && row_nmse.size() != rows) {
      throw Error(ErrorCode::corrupt_file,
                  path.string() + ": layer '" + layer.module + "' has " + std::to_string(row_nmse.size()) +
                      " row errors, but the report says " + std::to_string(rows) + " rows",
                  "The HDF5 file and the report belong to different runs.", "InvalidReport");
    }
    layer.group_nmse = reader.read(layer, "group_nmse", cols);
    layer.row_nmse = std::move(row_nmse);
  }
}

}  // namespace quant
