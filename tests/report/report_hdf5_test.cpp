#include <hdf5.h>

#include <cmath>
#include <thread>

#include "quant/error.h"
#include "quant/report.h"
#include "report/hdf5_handle.h"
#include "sample_reports.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using test::TempDir;

namespace {

// `report` as it comes from JSON: without arrays.
RunReport without_arrays(RunReport report) {
  for (LayerReport& layer : report.layers) {
    layer.row_nmse.clear();
    layer.group_nmse.clear();
  }
  return report;
}

void check_refused(const std::filesystem::path& path, RunReport report, ErrorCode code, const std::string& part) {
  CAPTURE(part);
  try {
    read_report_hdf5_arrays(path, report);
    FAIL_CHECK("no error");
  } catch (const Error& error) {
    CAPTURE(error.what());
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).find(path.string()) != std::string::npos);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  }
}

// An HDF5 file with the one dataset that the reader looks for, made by `fill` from the group of the layer.
template <class Fill>
void make_file(const std::filesystem::path& path, Fill fill) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t layers = H5Gcreate2(file, "layers", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t group = H5Gcreate2(layers, "model.layers.0.q_proj", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  fill(group);
  H5Gclose(group);
  H5Gclose(layers);
  H5Fclose(file);
}

void make_dataset(hid_t group, hid_t type, std::vector<hsize_t> extent, hsize_t chunk) {
  const hid_t space = H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (chunk > 0) {
    const std::vector<hsize_t> chunks(extent.size(), chunk);
    H5Pset_chunk(creation, static_cast<int>(chunks.size()), chunks.data());
  }
  H5Dclose(H5Dcreate2(group, "row_nmse", type, space, H5P_DEFAULT, creation, H5P_DEFAULT));
  H5Pclose(creation);
  H5Sclose(space);
}

}  // namespace

TEST_CASE("arrays survive HDF5", "[report][hdf5]") {
  const TempDir dir;
  const RunReport report = test::llama_report(2);
  write_report_hdf5(report, dir / "report.h5");
  CHECK_FALSE(std::filesystem::exists(dir / "report.h5.partial"));
  RunReport back = without_arrays(report);
  read_report_hdf5_arrays(dir / "report.h5", back);
  for (std::size_t i = 0; i < report.layers.size(); ++i) {
    CHECK(back.layers[i].row_nmse == report.layers[i].row_nmse);
    CHECK(back.layers[i].group_nmse == report.layers[i].group_nmse);
  }
}

TEST_CASE("HDF5 of a calibrated run", "[report][hdf5]") {
  const TempDir dir;
  RunReport report = test::calibrated_report();
  report.layers[1].sparsity = SparsityRecord{"SparseGPTModifier", "2:4", 2, 4, 3};
  write_report_hdf5(report, dir / "report.h5");
  const hid_t file = H5Fopen((dir / "report.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const auto attribute = [&](const char* object, const char* name) {
    double value = -1;
    const hid_t id = H5Aopen_by_name(file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(H5Aread(id, H5T_NATIVE_DOUBLE, &value) >= 0);
    H5Aclose(id);
    return value;
  };
  CHECK(attribute("/layers/model.layers.0.q_proj", "output_error") == 0.01);
  CHECK(attribute("/layers/model.layers.0.q_proj", "damping") == 0.01);
  CHECK(attribute("/layers/model.layers.0.k_proj", "tokens") == 3);
  CHECK(H5Aexists_by_name(file, "/layers/model.layers.0.k_proj", "output_error", H5P_DEFAULT) == 0);
  CHECK(attribute("/layers/model.layers.0.k_proj", "sparsity_keep") == 2);
  CHECK(attribute("/layers/model.layers.0.k_proj", "sparsity_of") == 4);
  CHECK(attribute("/layers/model.layers.0.k_proj", "sparsity_violations") == 3);
  CHECK(H5Aexists_by_name(file, "/layers/model.layers.0.q_proj", "sparsity_keep", H5P_DEFAULT) == 0);
  CHECK(attribute("/calibration", "sequences") == 8);
  double errors[2] = {};
  for (const char* name : {"/calibration/block_output_error", "/summary/output_error"}) {
    CAPTURE(name);
    const hid_t data = H5Dopen2(file, name, H5P_DEFAULT);
    CHECK(H5Dread(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, errors) >= 0);
    H5Dclose(data);
    CHECK(errors[0] == 0.01);
    CHECK(std::isnan(errors[1]));
  }
  H5Fclose(file);
}

TEST_CASE("HDF5 of an evaluation", "[report][hdf5]") {
  TempDir dir;
  write_report_hdf5(test::evaluated_report(), dir / "a.h5");
  const hid_t file = H5Fopen((dir / "a.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const auto number = [&](const char* object, const char* name) {
    double value = 0;
    const hid_t attribute = H5Aopen_by_name(file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    REQUIRE(attribute >= 0);
    H5Aread(attribute, H5T_NATIVE_DOUBLE, &value);
    H5Aclose(attribute);
    return value;
  };
  CHECK(number("evaluation", "windows") == 3);
  CHECK(number("evaluation", "increase") == 3.0);
  CHECK(number("evaluation", "increase_error") == 0.25);
  CHECK(number("evaluation", "kl_divergence_percent_99_9") == 0.375);
  CHECK(std::isnan(number("evaluation", "top5_overlap_error")));
  CHECK(number("evaluation/model", "perplexity") == 7.5);
  CHECK(number("evaluation/base", "nats_per_token_error") == 0.125);
  std::vector<double> nats(3);
  const hid_t dataset = H5Dopen2(file, "evaluation/window_nats", H5P_DEFAULT);
  REQUIRE(dataset >= 0);
  H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, nats.data());
  CHECK(nats == std::vector<double>{1.5, 2.0, 2.5});
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST_CASE("equal reports are equal HDF5 bytes", "[report][hdf5]") {
  const TempDir dir;
  RunReport report = test::llama_report(2);
  write_report_hdf5(report, dir / "a.h5");
  report.started = "2031-01-01T00:00:00Z";
  report.seconds += 3;
  report.machine = "other";
  report.model = "/elsewhere";
  for (LayerReport& layer : report.layers) layer.seconds += 1;
  write_report_hdf5(report, dir / "b.h5");
  CHECK(test::read_file(dir / "a.h5") == test::read_file(dir / "b.h5"));

  // Both files may have been written within one second: look for time stamps themselves.
  const hid_t file = H5Fopen((dir / "a.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  for (const char* name : {"/", "/layers", "/layers/model.layers.0.mlp.up_proj/row_nmse", "/summary/nmse"}) {
    H5O_info_t info;
    REQUIRE(H5Oget_info_by_name(file, name, &info, H5P_DEFAULT) >= 0);
    CAPTURE(name);
    CHECK(info.mtime == 0);
    CHECK(info.ctime == 0);
  }
  H5Fclose(file);
}

TEST_CASE("HDF5 of no layers, of empty arrays, and of hostile names", "[report][hdf5]") {
  const TempDir dir;
  write_report_hdf5({}, dir / "empty.h5");
  RunReport none;
  read_report_hdf5_arrays(dir / "empty.h5", none);
  CHECK(none.layers.empty());

  RunReport report = test::small_report();
  report.layers[0].row_nmse.clear();
  report.layers[1].module = "a/../b%/./\n";
  report.layers.push_back(report.layers[1]);
  report.layers.back().module = ".";
  report.layers.back().row_nmse = {1, 2};
  report.layers.push_back(report.layers[1]);
  report.layers.back().module = "";
  report.layers.back().row_nmse = {3, INFINITY};
  write_report_hdf5(report, dir / "odd.h5");
  RunReport back = without_arrays(report);
  back.layers.push_back(back.layers[0]);
  back.layers.back().module = "not in the file";
  back.layers.back().row_nmse = {5, 6};
  read_report_hdf5_arrays(dir / "odd.h5", back);
  for (std::size_t i = 0; i < report.layers.size(); ++i) CHECK(back.layers[i].row_nmse == report.layers[i].row_nmse);
  CHECK(back.layers.back().row_nmse.empty());
}

TEST_CASE("names of groups are reversible", "[report][hdf5]") {
  CHECK(report::hdf5_link_name("model.layers.0.q_proj") == "model.layers.0.q_proj");
  CHECK(report::hdf5_link_name("a/b%c\x01") == "a%2Fb%25c%01");
  CHECK(report::hdf5_link_name(".") == "%2E");
  CHECK(report::hdf5_link_name("") == "%");
}

TEST_CASE("a layer that occurs twice cannot be written", "[report][hdf5]") {
  const TempDir dir;
  RunReport report = test::small_report();
  report.layers[1].module = report.layers[0].module;
  CHECK_THROWS_AS(write_report_hdf5(report, dir / "x.h5"), Error);
  CHECK_FALSE(std::filesystem::exists(dir / "x.h5"));
}

TEST_CASE("HDF5 that cannot be written is an io error", "[report][hdf5]") {
  const TempDir dir;
  try {
    write_report_hdf5(test::small_report(), dir.path() / "missing" / "report.h5");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::io);
    CHECK(std::string(error.what()).find("No such file or directory") != std::string::npos);
  }
}

TEST_CASE("files that are no HDF5 report are refused", "[report][hdf5]") {
  const TempDir dir;
  const RunReport report = without_arrays(test::small_report());
  check_refused(dir / "absent.h5", report, ErrorCode::io, "cannot open");
  check_refused(dir.path(), report, ErrorCode::io, "cannot open");
  test::write_file(dir / "text.h5", "no HDF5");
  check_refused(dir / "text.h5", report, ErrorCode::corrupt_file, "cannot read it as HDF5");

  write_report_hdf5(test::small_report(), dir / "good.h5");
  const std::string bytes = test::read_file(dir / "good.h5");
  test::write_file(dir / "cut.h5", bytes.substr(0, bytes.size() / 2));
  check_refused(dir / "cut.h5", report, ErrorCode::corrupt_file, "cannot read it as HDF5");
}

TEST_CASE("datasets of the wrong kind are refused", "[report][hdf5]") {
  const TempDir dir;
  const RunReport report = without_arrays(test::small_report());
  const auto refused = [&](const std::string& part, auto fill) {
    make_file(dir / "bad.h5", fill);
    check_refused(dir / "bad.h5", report, ErrorCode::corrupt_file, part);
  };
  refused("floating-point", [](hid_t group) { make_dataset(group, H5T_NATIVE_INT, {2}, 0); });
  refused("one dimension", [](hid_t group) { make_dataset(group, H5T_NATIVE_FLOAT, {2, 1}, 0); });
  refused("has 3 values, but the layer admits 2", [](hid_t group) { make_dataset(group, H5T_NATIVE_FLOAT, {3}, 0); });
  refused("1 row errors", [](hid_t group) { make_dataset(group, H5T_NATIVE_FLOAT, {1}, 0); });
  refused("soft or external link",
          [](hid_t group) { H5Lcreate_soft("/layers", group, "row_nmse", H5P_DEFAULT, H5P_DEFAULT); });
  refused("soft or external link",
          [](hid_t group) { H5Lcreate_external("other.h5", "/x", group, "row_nmse", H5P_DEFAULT, H5P_DEFAULT); });
  refused("cannot read",
          [](hid_t group) { H5Gclose(H5Gcreate2(group, "row_nmse", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); });
}

TEST_CASE("sizes that the file only claims are refused", "[report][hdf5]") {
  const TempDir dir;
  RunReport report = without_arrays(test::small_report());
  report.layers[0].shape = {std::uint64_t{1} << 40, 4};
  make_file(dir / "bomb.h5", [](hid_t group) { make_dataset(group, H5T_NATIVE_FLOAT, {hsize_t{1} << 40}, 1024); });
  check_refused(dir / "bomb.h5", report, ErrorCode::corrupt_file, "claims 1099511627776 values in 0 bytes");
}

TEST_CASE("threads may write reports at the same time", "[report][hdf5]") {
  const TempDir dir;
  const RunReport report = test::small_report();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { write_report_hdf5(report, dir / (std::to_string(i) + ".h5")); });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string first = test::read_file(dir / "0.h5");
  for (int i = 1; i < 4; ++i) CHECK(test::read_file(dir / (std::to_string(i) + ".h5")) == first);
}
