#include <hdf5.h>

#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "calibration/support.h"
#include "quant/statistics_file.h"
#include "support/catch.h"

using namespace quant;  // NOLINT: a test of the library's interface
using test::TempDir;

namespace {

InputStatistics random_statistics(std::uint64_t cols, std::uint64_t sample, unsigned seed) {
  std::minstd_rand random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::uint64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  };
  InputStatistics made;
  made.tokens = 1000 + seed;
  made.cols = cols;
  made.minimum = fill(cols);
  made.maximum = fill(cols);
  for (std::uint64_t c = 0; c < cols; ++c) {
    if (made.minimum[c] > made.maximum[c]) std::swap(made.minimum[c], made.maximum[c]);
    made.absmax.push_back(std::max(std::abs(made.minimum[c]), std::abs(made.maximum[c])));
  }
  made.mean_abs = fill(cols);
  made.cross_gram = fill(cols * cols);
  made.rows = fill(sample * cols);
  made.gram = fill(cols * cols);
  for (std::uint64_t r = 0; r < cols; ++r) {
    made.gram[r * cols + r] = std::abs(made.gram[r * cols + r]);
    for (std::uint64_t c = 0; c < r; ++c) made.gram[r * cols + c] = made.gram[c * cols + r];
  }
  return made;
}

void check_equal(const InputStatistics& a, const InputStatistics& b) {
  CHECK(a.tokens == b.tokens);
  CHECK(a.cols == b.cols);
  CHECK(a.absmax == b.absmax);
  CHECK(a.minimum == b.minimum);
  CHECK(a.maximum == b.maximum);
  CHECK(a.mean_abs == b.mean_abs);
  CHECK(a.gram == b.gram);
  CHECK(a.cross_gram == b.cross_gram);
  CHECK(a.rows == b.rows);
}

// A file with one group "inputs/m" of 2 channels, to which `fill` adds.
template <class Fill>
Error error_with(Fill fill) {
  const TempDir directory;
  const auto path = directory / "a.h5";
  {
    InputStatistics statistics;
    statistics.tokens = 3;
    statistics.cols = 2;
    write_statistics(path, {}, {{"m", statistics}});
  }
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t group = H5Gopen2(file, "inputs/m", H5P_DEFAULT);
  fill(file, group);
  H5Gclose(group);
  H5Fclose(file);
  const Error error = test::error_of([&] { read_statistics(path); });
  INFO(error.what());
  CHECK((error.code() == ErrorCode::internal || std::string(error.what()).find(path.string()) == 0));
  return error;
}

void put(hid_t group, const char* name, std::vector<hsize_t> shape, const std::vector<float>& values) {
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(group, name, H5T_NATIVE_FLOAT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Dclose(dataset);
  H5Sclose(space);
}

void set_attribute(hid_t object, const char* name, std::uint64_t value) {
  H5Adelete(object, name);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, H5T_NATIVE_UINT64, &value);
  H5Aclose(attribute);
  H5Sclose(space);
}

}  // namespace

TEST_CASE("statistics survive the file to the bit") {
  const TempDir directory;
  const auto path = directory / "s.h5";
  std::map<std::string, InputStatistics> all;
  all["model.layers.0.self_attn.q_proj"] = random_statistics(1, 1, 1);
  all["model.layers.0.mlp.down_proj"] = random_statistics(37, 5, 2);
  all["a/b%.\n"] = random_statistics(700, 2, 3);  // more than one block of the triangle
  all[""] = random_statistics(2, 512, 4);
  all["."] = InputStatistics{};
  all["."].cols = 3;
  write_statistics(path, {"model", "data.txt", "abc", "1.0"}, all);
  CHECK(!std::filesystem::exists(path.string() + ".partial"));
  const auto again = read_statistics(path);
  REQUIRE(again.size() == all.size());
  for (const auto& [module, statistics] : all) check_equal(again.at(module), statistics);
  const StatisticsFileReader reader(path);
  CHECK(reader.origin().model == "model");
  CHECK(reader.origin().data == "data.txt");
  CHECK(reader.origin().data_hash == "abc");
  CHECK(reader.origin().tool_version == "1.0");
  CHECK(reader.has("a/b%.\n"));
  CHECK(!reader.has("b"));
  CHECK(test::error_of([&] { reader.read("b"); }).code() == ErrorCode::usage);
  const std::string bytes = test::read_file(path);
  write_statistics(path, {"model", "data.txt", "abc", "1.0"}, all);
  CHECK(test::read_file(path) == bytes);
}

TEST_CASE("modules that read the same input share its statistics") {
  const TempDir directory;
  const InputStatistics statistics = random_statistics(300, 3, 1);
  const auto size_with = [&](const std::vector<std::string>& modules) {
    StatisticsFileWriter writer(directory / "s.h5", {});
    writer.write(modules, statistics);
    writer.finish();
    return std::filesystem::file_size(directory / "s.h5");
  };
  const auto alone = size_with({"q"});
  CHECK(size_with({"q", "k", "v"}) < alone + 4096);
  const auto all = read_statistics(directory / "s.h5");
  REQUIRE(all.size() == 3);
  for (const char* module : {"q", "k", "v"}) check_equal(all.at(module), statistics);
}

TEST_CASE("a Gram matrix takes half of its space") {
  const TempDir directory;
  InputStatistics statistics = random_statistics(400, 0, 1);
  statistics.cross_gram.clear();
  write_statistics(directory / "s.h5", {}, {{"m", statistics}});
  CHECK(std::filesystem::file_size(directory / "s.h5") < 400 * 400 * 4 * 6 / 10);
}

TEST_CASE("statistics from elsewhere: h5py, a full Gram matrix, float64") {
  const StatisticsFileReader reader(test::golden_file("statistics.h5"));
  CHECK(reader.origin().model == "elsewhere");
  CHECK(reader.modules() ==
        std::vector<std::string>{"model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.q_proj"});
  const InputStatistics read = reader.read("model.layers.0.self_attn.k_proj");
  CHECK(read.tokens == 6);
  for (int a = 0; a < 4; ++a) {
    double mean = 0;
    for (int b = 0; b < 4; ++b) {
      double sum = 0;
      for (int t = 0; t < 6; ++t) sum += std::sin(4 * t + a + 1) * std::sin(4 * t + b + 1);
      CHECK(read.gram[static_cast<std::size_t>(4 * a + b)] == Approx(sum / 6).epsilon(1e-6).margin(1e-7));
    }
    for (int t = 0; t < 6; ++t) mean += std::abs(std::sin(4 * t + a + 1)) / 6;
    CHECK(read.mean_abs[static_cast<std::size_t>(a)] == Approx(mean));
  }
  CHECK(read.rows.size() == 24);
  CHECK(read.cross_gram.empty());
}

TEST_CASE("statistics that do not fit are not written") {
  const TempDir directory;
  const auto path = directory / "s.h5";
  const auto refused = [&](auto change) {
    InputStatistics statistics = random_statistics(4, 2, 1);
    change(statistics);
    const Error error = test::error_of([&] { write_statistics(path, {}, {{"m", statistics}}); });
    CHECK(error.code() == ErrorCode::usage);
    CHECK(std::string(error.what()).find("'m'") != std::string::npos);
    CHECK(!std::filesystem::exists(path));
    CHECK(!std::filesystem::exists(path.string() + ".partial"));
  };
  refused([](InputStatistics& s) { s.cols = 0; });
  refused([](InputStatistics& s) { s.absmax.pop_back(); });
  refused([](InputStatistics& s) { s.gram.pop_back(); });
  refused([](InputStatistics& s) { s.cross_gram.push_back(0); });
  refused([](InputStatistics& s) { s.rows.pop_back(); });
  refused([](InputStatistics& s) { s.rows.resize(4 * 513); });
  StatisticsFileWriter writer(path, {});
  const InputStatistics statistics = random_statistics(4, 2, 1);
  writer.write({"a"}, statistics);
  CHECK(test::error_of([&] { writer.write({"b", "a"}, statistics); }).code() == ErrorCode::usage);
  CHECK(test::error_of([&] { writer.write({}, statistics); }).code() == ErrorCode::usage);
  CHECK(test::error_of([] { StatisticsFileWriter("/no/such/folder/s.h5", {}); }).code() == ErrorCode::io);
}

TEST_CASE("statistics that are damaged or hostile are refused") {
  const auto corrupt = [](const std::string& part, auto fill) {
    const Error error = error_with(fill);
    INFO(error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  };
  CHECK(error_with([](hid_t, hid_t group) {
          put(group, "absmax", {2}, {1, 2});
        }).code() == ErrorCode::internal);  // right
  CHECK(error_with([](hid_t file, hid_t) { set_attribute(file, "schema_version", 2); }).code() ==
        ErrorCode::unsupported);
  corrupt("schema_version", [](hid_t file, hid_t) { H5Adelete(file, "schema_version"); });
  corrupt("inputs", [](hid_t file, hid_t) { H5Ldelete(file, "inputs", H5P_DEFAULT); });
  corrupt("'cols'", [](hid_t, hid_t group) { H5Adelete(group, "cols"); });
  corrupt("0 channels", [](hid_t, hid_t group) { set_attribute(group, "cols", 0); });
  corrupt("channels", [](hid_t, hid_t group) { set_attribute(group, "cols", 1ULL << 62); });
  corrupt("shape [3]", [](hid_t, hid_t group) { put(group, "absmax", {3}, {1, 2, 3}); });
  corrupt("not finite, at 1", [](hid_t, hid_t group) { put(group, "mean_abs", {2}, {1, std::nanf("")}); });
  corrupt("negative absmax, at 1", [](hid_t, hid_t group) { put(group, "absmax", {2}, {1, -2}); });
  corrupt("minimum above the maximum, at 0", [](hid_t, hid_t group) {
    put(group, "minimum", {2}, {3, 0});
    put(group, "maximum", {2}, {2, 0});
  });
  corrupt("shape [4]", [](hid_t, hid_t group) { put(group, "gram_upper", {4}, {1, 2, 3, 4}); });
  corrupt("negative diagonal", [](hid_t, hid_t group) { put(group, "gram_upper", {3}, {1, 0, -1}); });
  corrupt("not symmetric at [0, 1]", [](hid_t, hid_t group) { put(group, "gram", {2, 2}, {1, 0.5F, 0.2F, 1}); });
  corrupt("shape [2, 1]", [](hid_t, hid_t group) { put(group, "gram", {2, 1}, {1, 1}); });
  corrupt("513 rows", [](hid_t, hid_t group) { put(group, "rows", {513, 2}, std::vector<float>(1026)); });
  corrupt("soft or external link",
          [](hid_t file, hid_t) { H5Lcreate_soft("/inputs/m", file, "inputs/n", H5P_DEFAULT, H5P_DEFAULT); });
  const TempDir directory;
  test::write_file(directory / "s.h5", "no HDF5");
  CHECK(test::error_of([&] { StatisticsFileReader(directory / "s.h5"); }).code() == ErrorCode::corrupt_file);
  CHECK(test::error_of([&] { StatisticsFileReader(directory / "none.h5"); }).code() == ErrorCode::io);
}

TEST_CASE("parts that nobody asks for are not opened") {
  const TempDir directory;
  const auto file = directory / "s.h5";
  const InputStatistics all = random_statistics(6, 3, 5);
  write_statistics(file, {}, {{"m", all}});
  const StatisticsFileReader reader(file);
  const auto same = [&](const CalibrationNeeds& parts) {
    InputStatistics expected = all;
    if (!parts.absmax) expected.absmax.clear(), expected.minimum.clear(), expected.maximum.clear();
    if (!parts.mean_abs) expected.mean_abs.clear();
    if (!parts.gram) expected.gram.clear();
    if (!parts.cross_gram) expected.cross_gram.clear();
    if (!parts.rows) expected.rows.clear();
    check_equal(reader.read("m", parts), expected);
  };
  for (unsigned bits = 0; bits < 32; ++bits) {
    const auto wants = [&](unsigned bit) { return (bits >> bit & 1U) != 0; };
    same({.absmax = wants(0), .mean_abs = wants(1), .gram = wants(2), .cross_gram = wants(3), .rows = wants(4)});
  }
  // What is wrong with the others does not matter then.
  const hid_t changed = H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Ldelete(changed, "inputs/m/gram_upper", H5P_DEFAULT);
  const hid_t group = H5Gopen2(changed, "inputs/m", H5P_DEFAULT);
  put(group, "gram_upper", {2}, {1, 2});
  H5Gclose(group);
  H5Fclose(changed);
  CHECK(reader.read("m", {.absmax = true}).absmax == all.absmax);
  CHECK(test::error_of([&] { reader.read("m", {.gram = true}); }).code() == ErrorCode::corrupt_file);
}

TEST_CASE("a Gram matrix of many pieces, of our chunks and of one") {
  const TempDir directory;
  const auto file = directory / "s.h5";
  InputStatistics all;
  all.tokens = 1;
  all.cols = 900;  // a triangle of 405 450 values
  std::minstd_rand random(4);
  all.gram.resize(all.cols * all.cols);
  for (std::uint64_t r = 0; r < all.cols; ++r) {
    for (std::uint64_t c = r; c < all.cols; ++c) {
      all.gram[r * all.cols + c] = all.gram[c * all.cols + r] = static_cast<float>(random() % 4096);
    }
  }
  write_statistics(file, {}, {{"m", all}});
  check_equal(StatisticsFileReader(file).read("m"), all);
  std::vector<float> triangle;
  for (std::uint64_t r = 0; r < all.cols; ++r) {
    for (std::uint64_t c = r; c < all.cols; ++c) triangle.push_back(all.gram[r * all.cols + c]);
  }
  const auto write_whole = [&] {
    const hid_t changed = H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(changed, "inputs/m/gram_upper", H5P_DEFAULT);
    const hsize_t size = triangle.size();
    const hid_t space = H5Screate_simple(1, &size, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(creation, 1, &size);
    H5Pset_deflate(creation, 1);
    const hid_t dataset =
        H5Dcreate2(changed, "inputs/m/gram_upper", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, triangle.data());
    H5Dclose(dataset);
    H5Pclose(creation);
    H5Sclose(space);
    H5Fclose(changed);
  };
  write_whole();
  check_equal(StatisticsFileReader(file).read("m"), all);
  triangle[300000] = std::nanf("");
  write_whole();
  const Error error = test::error_of([&] { StatisticsFileReader(file).read("m"); });
  CHECK(std::string(error.what()).find("not finite, at 300000") != std::string::npos);
}

TEST_CASE("rows of no extent are no rows") {
  const TempDir directory;
  InputStatistics statistics;
  statistics.cols = 2;
  statistics.absmax = {1, 2};
  write_statistics(directory / "s.h5", {}, {{"m", statistics}});
  const hid_t file = H5Fopen((directory / "s.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t group = H5Gopen2(file, "inputs/m", H5P_DEFAULT);
  put(group, "rows", {0, 2}, {});
  H5Gclose(group);
  H5Fclose(file);
  const StatisticsFileReader reader(directory / "s.h5");
  CHECK_FALSE(reader.describe("m").parts.rows);
  CHECK(reader.describe("m").parts.absmax);
  CHECK(reader.read("m").rows.empty());
}

TEST_CASE("magnitudes and ranges of a file from elsewhere complete each other") {
  const TempDir directory;
  const auto read_with = [&](auto fill) {
    InputStatistics statistics;
    statistics.tokens = 3;
    statistics.cols = 2;
    fill(statistics);
    write_statistics(directory / "s.h5", {}, {{"m", statistics}});
    const StatisticsFileReader reader(directory / "s.h5");
    const InputStatistics read = reader.read("m");
    CHECK(reader.describe("m").parts.absmax == !read.absmax.empty());
    return read;
  };
  using Floats = std::vector<float>;
  const InputStatistics magnitudes = read_with([](InputStatistics& s) { s.absmax = {1, 2}; });
  CHECK(magnitudes.absmax == Floats{1, 2});
  CHECK(magnitudes.minimum == Floats{-1, -2});
  CHECK(magnitudes.maximum == Floats{1, 2});
  const InputStatistics ranges = read_with([](InputStatistics& s) { s.minimum = {-3, 1}, s.maximum = {2, 4}; });
  CHECK(ranges.absmax == Floats{3, 4});
  CHECK(ranges.minimum == Floats{-3, 1});
  // One end alone is not used.
  const InputStatistics end = read_with([](InputStatistics& s) { s.absmax = {1, 2}, s.minimum = {5, -1}; });
  CHECK(end.minimum == Floats{-1, -2});
  CHECK(end.maximum == Floats{1, 2});
  const InputStatistics lone = read_with([](InputStatistics& s) { s.maximum = {1, 2}; });
  CHECK(lone.absmax.empty());
  CHECK(lone.maximum.empty());
}

TEST_CASE("threads may read one file at the same time") {
  const TempDir directory;
  std::map<std::string, InputStatistics> all;
  for (unsigned i = 0; i < 4; ++i) all["m" + std::to_string(i)] = random_statistics(60, 2, i);
  write_statistics(directory / "s.h5", {}, all);
  const StatisticsFileReader reader(directory / "s.h5");
  std::vector<InputStatistics> read(4);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back([&, i] { read[i] = reader.read("m" + std::to_string(i)); });
  for (auto& thread : threads) thread.join();
  for (unsigned i = 0; i < 4; ++i) check_equal(read[i], all.at("m" + std::to_string(i)));
}
