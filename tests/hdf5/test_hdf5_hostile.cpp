// HDF5 files that nobody vouches for: each ends in an Error, or in the tensors that were written.
#include <hdf5.h>

#include <algorithm>
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

// A dataset of that size and chunk (0: none), with as many stored chunks of so many bytes; 0: nothing is written.
struct Stored {
  std::size_t chunks = 0;
  std::size_t bytes = 0;
};
void add_dataset(hid_t file, const char* name, hsize_t size, hsize_t chunk, const char* dtype, Stored stored = {},
                 int deflate = 1) {
  const hsize_t most = H5S_UNLIMITED;  // so that chunks may be larger than the dataset
  const hid_t space = H5Screate_simple(1, &size, chunk > 0 ? &most : nullptr);
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  if (chunk > 0) H5Pset_chunk(properties, 1, &chunk);
  for (int i = 0; i < deflate; ++i) H5Pset_deflate(properties, 1);
  const hid_t dataset = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  if (dtype != nullptr) set_text(dataset, "dtype", dtype);
  const std::vector<char> bytes(std::max<std::size_t>(stored.bytes, chunk == 0 ? size : 0), 'x');
  for (hsize_t i = 0; i < stored.chunks; ++i) {
    const hsize_t at = i * chunk;
    REQUIRE(H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, &at, bytes.size(), bytes.data()) >= 0);
  }
  if (chunk == 0) REQUIRE(H5Dwrite(dataset, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) >= 0);
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

// Makes a file without checksums of two datasets that are stored in one piece each, and puts other sizes into it.
std::string with_sizes(std::uint64_t first, std::uint64_t second) {
  TempDir dir;
  const std::uint64_t sizes[2] = {10007, 10009};
  const hid_t file = H5Fcreate((dir / "x.h5").c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
  set_text(file, "format", "libquant tensors 1");
  add_dataset(file, "a", sizes[0], 0, "U8", {}, 0);
  add_dataset(file, "b", sizes[1], 0, "U8", {}, 0);
  H5Fclose(file);
  std::string bytes = read_file(dir / "x.h5");
  const std::uint64_t claimed[2] = {first, second};
  for (int i = 0; i < 2; ++i) {
    const std::string old(reinterpret_cast<const char*>(&sizes[i]), sizeof(sizes[i]));
    const std::string other(reinterpret_cast<const char*>(&claimed[i]), sizeof(claimed[i]));
    int found = 0;
    for (std::size_t at = bytes.find(old); at != std::string::npos; at = bytes.find(old, at + 1), ++found) {
      bytes.replace(at, old.size(), other);
    }
    REQUIRE(found >= 2);  // of the shape and of the storage
  }
  write_file(dir / "x.h5", bytes);
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

TEST_CASE("errors name the dataset, and attributes by what has them") {
  const auto with_dataset = [](hsize_t rows, hsize_t cols, const std::function<void(hid_t)>& describe) {
    return spoiled([&](hid_t f) {
      const hsize_t sizes[2] = {rows, cols}, chunk[2] = {1, 1};
      const hid_t space = H5Screate_simple(2, sizes, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_chunk(properties, 2, chunk);
      const hid_t dataset = H5Dcreate2(f, "a/d", H5T_STD_U8LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      describe(dataset);
      H5Dclose(dataset);
      H5Pclose(properties);
      H5Sclose(space);
    });
  };
  const hsize_t large = hsize_t{1} << 40U;
  CHECK(mentions(with_dataset(large, large, [](hid_t d) { set_text(d, "dtype", "U8"); }), "x.h5: dataset 'a/d'"));
  const auto number = [](hid_t object, const char* key) {
    const hid_t space = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(object, key, H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
  };
  CHECK(
      mentions(with_dataset(1, 1, [&](hid_t d) { number(d, "dtype"); }), "the attribute 'dtype' of '/a/d' is no text"));
  CHECK(mentions(spoiled([&](hid_t f) { number(f, "metadata.x"); }), "the attribute 'metadata.x' of '/' is no text"));
  CHECK(mentions(spoiled([&](hid_t f) { number(f, std::string(4096, 'k').c_str()); }), "name has 4096 bytes"));
}

TEST_CASE("datasets that claim more than the file can hold are refused") {
  CHECK(with_sizes(10007, 10009).empty());
  CHECK(mentions(with_sizes(std::uint64_t{1} << 34U, 10009), "'a' says that it takes 17179869184 bytes of a file of"));
  // Each fits into the file, but not both.
  CHECK(mentions(with_sizes(20000, 10009), "'b' says that it takes 10009 bytes, which are not left"));
  CHECK(mentions(spoiled([](hid_t f) { H5Lcreate_hard(f, "/b", f, "/c", H5P_DEFAULT, H5P_DEFAULT); }),
                 "'c' is linked twice"));
}

TEST_CASE("chunks that are missing, or are too much for their dataset or for memory, are refused") {
  const auto problem = [](hsize_t size, hsize_t chunk, Stored stored, int deflate = 1) {
    return spoiled([=](hid_t f) { add_dataset(f, "d", size, chunk, "U8", stored, deflate); });
  };
  CHECK(problem(8192, 8192, {1, 8192}, 0).empty());
  CHECK(mentions(problem(8192, 1U << 23U, {1, 9000}), "'d' has chunks of 8388608 bytes; at most 4194304"));
  CHECK(mentions(problem(819200, 8192, {1, 8192}), "'d' has 100 chunks, but 1 are stored"));
  CHECK(mentions(problem(16384, 8192, {2, 100000}), "'d' keeps a chunk of 8192 bytes in 100000"));
  CHECK(mentions(problem(1U << 20U, 1U << 19U, {2, 500}), "'d' claims 1048576 values"));
  CHECK(mentions(problem(8192, 8192, {1, 8192}, 2), "'d' has the filter 1 twice"));
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
