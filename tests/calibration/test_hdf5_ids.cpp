#include <hdf5.h>

#include "calibration/support.h"
#include "support/catch.h"

using namespace quant;  // NOLINT: a test of the library's interface
using test::golden_file;
using test::Sequences;
using test::TempDir;

namespace {

CalibrationOptions rows() {
  CalibrationOptions options;
  options.pack = false;
  return options;
}

Sequences table(std::uint64_t count, std::uint64_t cols) {
  Sequences made(count, std::vector<std::int32_t>(cols));
  for (std::uint64_t i = 0; i < count * cols; ++i)
    made[i / cols][i % cols] = static_cast<std::int32_t>(i * 7919 % 50000);
  return made;
}

// A file with what `fill` puts into it.
template <class Fill>
void refused(const std::string& part, Fill fill) {
  const TempDir directory;
  const auto path = directory / "a.h5";
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  fill(file);
  H5Fclose(file);
  const Error error = test::error_of([&] { read_sequences(path, nullptr, rows()); });
  INFO(error.what());
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(std::string(error.what()).find(path.string()) == 0);
  CHECK(std::string(error.what()).find(part) != std::string::npos);
}

void make_dataset(hid_t file, const char* name, hid_t type, std::vector<hsize_t> shape, hsize_t chunk,
                  const void* data = nullptr) {
  const std::vector<hsize_t> most(shape.size(), H5S_UNLIMITED);  // so that chunks may be larger than the array
  const hid_t space =
      shape.empty() ? H5Screate(H5S_SCALAR)
                    : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), chunk > 0 ? most.data() : nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunks(shape.size(), chunk);
  if (chunk > 0) H5Pset_chunk(creation, static_cast<int>(chunks.size()), chunks.data());
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  if (data != nullptr) H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
  H5Dclose(dataset);
  H5Pclose(creation);
  H5Sclose(space);
}

}  // namespace

TEST_CASE("token ids that h5py wrote") {
  CHECK(read_sequences(golden_file("table.h5"), nullptr, rows()).sequences == table(40, 6));
  CHECK(read_sequences(golden_file("line.h5"), nullptr, rows()).sequences == table(1, 30));
  CalibrationOptions packed;
  packed.seq_len = 16;
  CHECK(read_sequences(golden_file("table.h5"), nullptr, packed).sequences == table(15, 16));
}

TEST_CASE("files of ids that are damaged or hostile are refused") {
  const std::int32_t ids[] = {1, 2, 3, -100};
  refused("'input_ids' is missing", [](hid_t) {});
  refused("row 1, column 1 holds -100", [&](hid_t file) {
    make_dataset(file, "input_ids", H5T_NATIVE_INT32, {2, 2}, 0, ids);
  });
  refused("does not hold integers", [](hid_t file) { make_dataset(file, "input_ids", H5T_NATIVE_FLOAT, {2}, 0); });
  refused("0 dimensions", [&](hid_t file) { make_dataset(file, "input_ids", H5T_NATIVE_INT32, {}, 0, ids); });
  refused("3 dimensions", [&](hid_t file) { make_dataset(file, "input_ids", H5T_NATIVE_INT32, {1, 2, 2}, 0, ids); });
  refused("no tokens", [](hid_t file) { make_dataset(file, "input_ids", H5T_NATIVE_INT32, {0, 4}, 0); });
  refused("claims 1000000000000 values", [](hid_t file) {
    make_dataset(file, "input_ids", H5T_NATIVE_INT32, {1000000, 1000000}, 1024);
  });
  refused("64 bits", [](hid_t file) {
    make_dataset(file, "input_ids", H5T_NATIVE_INT32, {1ULL << 40, 1ULL << 40}, 4);
  });
  refused("chunks of", [](hid_t file) { make_dataset(file, "input_ids", H5T_NATIVE_INT32, {64, 64}, 1 << 14); });
  refused("soft or external link", [&](hid_t file) {
    make_dataset(file, "real", H5T_NATIVE_INT32, {3}, 0, ids);
    H5Lcreate_soft("/real", file, "input_ids", H5P_DEFAULT, H5P_DEFAULT);
  });
  refused("soft or external link",
          [](hid_t file) { H5Lcreate_external("/etc/other.h5", "/x", file, "input_ids", H5P_DEFAULT, H5P_DEFAULT); });
  refused("takes its data from other files", [](hid_t file) {
    const hsize_t size = 4;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(creation, "/etc/hostname", 0, 16);
    H5Dclose(H5Dcreate2(file, "input_ids", H5T_NATIVE_INT32, space, H5P_DEFAULT, creation, H5P_DEFAULT));
    H5Pclose(creation);
    H5Sclose(space);
  });
  refused("input_ids",
          [](hid_t file) { H5Gclose(H5Gcreate2(file, "input_ids", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); });
}

TEST_CASE("ids that the file is too small for, or that were never written, are refused") {
  const TempDir directory;
  const auto path = directory / "a.h5";
  const std::uint64_t size = 10007;
  const std::uint64_t claimed = std::uint64_t{1} << 31U;
  const std::vector<std::int8_t> ids(size, 1);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  make_dataset(file, "input_ids", H5T_NATIVE_INT8, {size}, 0, ids.data());
  H5Fclose(file);
  CHECK(read_sequences(path, nullptr, rows()).sequences.size() == 1);
  std::string bytes = test::read_file(path);
  const std::string old(reinterpret_cast<const char*>(&size), sizeof(size));
  for (std::size_t at = bytes.find(old); at != std::string::npos; at = bytes.find(old)) {
    bytes.replace(at, old.size(), reinterpret_cast<const char*>(&claimed), sizeof(claimed));
  }
  test::write_file(path, bytes);
  const Error error = test::error_of([&] { read_sequences(path, nullptr, rows()); });
  INFO(error.what());
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(std::string(error.what()).find("'input_ids' says that it takes 2147483648 bytes") != std::string::npos);
  refused("claims 4 values", [](hid_t f) { make_dataset(f, "input_ids", H5T_NATIVE_INT32, {4}, 0); });
}

TEST_CASE("what is no HDF5 file, or half of one, is refused") {
  const TempDir directory;
  const std::string whole = test::read_file(golden_file("table.h5"));
  for (const std::string& bytes :
       {std::string(), std::string("no HDF5"), whole.substr(0, 100), whole.substr(0, whole.size() / 2)}) {
    test::write_file(directory / "a.hdf5", bytes);
    const Error error = test::error_of([&] { read_sequences(directory / "a.hdf5", nullptr, rows()); });
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(std::string(error.what()).find("a.hdf5") != std::string::npos);
  }
}
