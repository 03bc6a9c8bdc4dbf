// HDF5 files that nobody vouches for: each ends in an Error, or in the tensors that were written.
#include <hdf5.h>

#include <functional>

#include "quant/error.h"
#include "quant/hdf5_tensors.h"
#include "quant/open.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

void write_valid(const std::filesystem::path& file) {
  MemoryCheckpoint source;
  source.set("a.codes", DType::U8, {40, 10}, std::vector<std::byte>(400, std::byte{3}));
  source.set("a.scale", DType::F16, {40, 1}, std::vector<std::byte>(80, std::byte{60}));
  source.set("b", DType::F32, {3}, std::vector<std::byte>(12));
  write_hdf5_tensors(file, source, 4);
}

std::string error_of(const std::filesystem::path& file) {
  try {
    const auto checkpoint = open_checkpoint(file);
    for (const TensorInfo& info : checkpoint->tensors()) checkpoint->view(info);
  } catch (const Error& problem) {
    return problem.what();
  }
  return "";
}

void set_text(hid_t object, const char* key, const std::string& value) {
  if (H5Aexists(object, key) > 0) H5Adelete(object, key);
  const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
  H5Tset_size(type, value.size());
  const hid_t attribute = H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value.data());
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

// A dataset of that size and chunk that nothing was written to.
void add_dataset(hid_t file, const char* name, hsize_t size, hsize_t chunk, const char* dtype) {
  const hid_t space = H5Screate_simple(1, &size, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(properties, 1, &chunk);
  H5Pset_deflate(properties, 1);
  const hid_t dataset = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  if (dtype != nullptr) set_text(dataset, "dtype", dtype);
  H5Dclose(dataset);
  H5Pclose(properties);
  H5Sclose(space);
}

std::string spoiled(const std::function<void(hid_t)>& change) {
  TempDir dir;
  write_valid(dir / "x.h5");
  const hid_t file = H5Fopen((dir / "x.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  REQUIRE(file >= 0);
  change(file);
  H5Fclose(file);
  return error_of(dir / "x.h5");
}

bool mentions(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("what the schema does not allow is named") {
  CHECK(spoiled([](hid_t) {}).empty());
  CHECK(mentions(spoiled([](hid_t f) { set_text(f, "format", "something else"); }), "not one of tensors"));
  CHECK(mentions(spoiled([](hid_t f) { H5Adelete(f, "format"); }), "not one of tensors"));
  CHECK(mentions(spoiled([](hid_t f) { H5Lcreate_soft("/b", f, "c", H5P_DEFAULT, H5P_DEFAULT); }), "'c'"));
  CHECK(mentions(spoiled([](hid_t f) { H5Lcreate_external("/etc/passwd", "/", f, "e", H5P_DEFAULT, H5P_DEFAULT); }),
                 "'e'"));
  CHECK(mentions(spoiled([](hid_t f) { H5Lcreate_hard(f, "/a", f, "/a/again", H5P_DEFAULT, H5P_DEFAULT); }), "twice"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d", 8, 8, nullptr); }), "'dtype'"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d", 8, 8, "F32"); }), "F32"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d", 8, 8, "U9"); }), "U9"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d", hsize_t{1} << 50U, 1U << 20U, "U8"); }), "stored"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d%2", 8, 8, "U8"); }), "escaped"));
  CHECK(mentions(spoiled([](hid_t f) { add_dataset(f, "d.e", 8, 8, "U8"); }), "escaped"));
}

TEST_CASE("files that were cut off are refused") {
  TempDir dir;
  write_valid(dir / "valid.h5");
  const std::string bytes = read_file(dir / "valid.h5");
  for (std::size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 60) {
    write_file(dir / "cut.h5", bytes.substr(0, size));
    CHECK_FALSE(error_of(dir / "cut.h5").empty());
  }
}

TEST_CASE("values that cannot be decompressed are refused by the dataset's name") {
  TempDir dir;
  write_valid(dir / "x.h5");
  haddr_t address = 0;
  hsize_t size = 0;
  {
    const hid_t file = H5Fopen((dir / "x.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t dataset = H5Dopen2(file, "a/codes", H5P_DEFAULT);
    const hsize_t first[2] = {0, 0};
    unsigned mask = 0;
    REQUIRE(H5Dget_chunk_info_by_coord(dataset, first, &mask, &address, &size) >= 0);
    H5Dclose(dataset);
    H5Fclose(file);
  }
  std::string bytes = read_file(dir / "x.h5");
  REQUIRE(address + size <= bytes.size());
  for (hsize_t i = 0; i < size; ++i) bytes[address + i] = static_cast<char>(~bytes[address + i]);
  write_file(dir / "x.h5", bytes);
  CHECK(mentions(error_of(dir / "x.h5"), "a/codes"));
}
