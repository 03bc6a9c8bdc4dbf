#include <cstring>

#include "calibration/support.h"
#include "support/catch.h"

using namespace quant;  // NOLINT: a test of the library's interface
using test::golden_file;
using test::Sequences;
using test::TempDir;
using test::write_file;

namespace {

CalibrationOptions rows() {
  CalibrationOptions options;
  options.pack = false;
  options.seq_len = 100;
  return options;
}

Sequences table(std::uint64_t count, std::uint64_t cols) {
  Sequences made(count, std::vector<std::int32_t>(cols));
  for (std::uint64_t i = 0; i < count * cols; ++i)
    made[i / cols][i % cols] = static_cast<std::int32_t>(i * 7919 % 50000);
  return made;
}

std::string header(const std::string& text) {
  const std::string padded = text + "\n";
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(padded.size()) + '\0' + padded;
}

Error error_for(const std::string& bytes) {
  const TempDir directory;
  write_file(directory / "a.npy", bytes);
  return test::error_of([&] { read_sequences(directory / "a.npy", nullptr, rows()); });
}

constexpr const char* kGood = "{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }";

}  // namespace

TEST_CASE("arrays that NumPy wrote") {
  CHECK(read_sequences(golden_file("line_i8_v1.npy"), nullptr, rows()).sequences == table(1, 30));
  for (const char* name : {"table_i4_v2.npy", "table_u2_v3.npy", "table_u8_v1.npy"}) {
    CHECK(read_sequences(golden_file(name), nullptr, rows()).sequences == table(4, 6));
  }
  CalibrationOptions packed;
  packed.seq_len = 8;
  const TokenSequences joined = read_sequences(golden_file("table_i4_v2.npy"), nullptr, packed);
  CHECK(joined.sequences == table(3, 8));
  CHECK(joined.documents == 4);
  CalibrationOptions cut = rows();
  cut.seq_len = 5;
  cut.samples = 2;
  CHECK(read_sequences(golden_file("table_i4_v2.npy"), nullptr, cut).dropped_tokens == 2);
}

TEST_CASE("damaged .npy files are refused") {
  const auto refused = [](const std::string& bytes, const std::string& part) {
    const Error error = error_for(bytes);
    INFO(error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  };
  const std::string data("\x01\0\0\0\x02\0\0\0", 8);
  CHECK(error_for(header(kGood) + data).code() == ErrorCode::internal);  // this one is right
  refused("", "ends before");
  refused("NUMPY...........", "not a .npy file");
  refused(std::string("\x93NUMPY\x04\x00", 8) + "..........", "version 4");
  refused(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12), "header of 4294967295 bytes");
  refused(header(kGood) + data.substr(1), "7 bytes of data");
  refused(header(kGood) + data + "x", "9 bytes of data");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"), "64 bits");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,), }"), "64 bits");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904,), }"), "64 bits");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (), }") + data, "0 dimensions");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 2), }") + data, "3 dimensions");
  refused(header("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 2), }") + data, "by columns");
  refused(header("{'descr': '<i4', 'fortran_order': None, 'shape': (1, 2), }") + data, "fortran_order");
  refused(header("{'descr': '<i4', 'shape': (1, 2), }") + data, "without");
  refused(header("{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }") + data, "'descr'");
  refused(header("{'other': '<i4'}") + data, "'other'");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2) ") + data, "damaged");
  refused(header("{'descr': '<i4") + data, "without an end");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (-1, 2), }") + data, "no tuple");
  refused(header(std::string(kGood) + " x") + data, "behind its header");
  refused(header("{'descr': '<i4', 'fortran_order': False, 'shape': (0, 2), }"), "no tokens");
  refused(header(kGood) + std::string("\x01\0\0\0\xff\xff\xff\xff", 8), "row 0, column 1 holds -1");
  refused(header("{'descr': '<u8', 'fortran_order': False, 'shape': (1,), }") + std::string(8, '\xff'), "column 0");
  refused(header("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }") + std::string("\0\0\0\x80\0\0\0\0", 8),
          "2147483648");
  for (const char* type : {">i4", "<f4", "|u1", "<i16", ""}) {
    const Error error =
        error_for(header("{'descr': '" + std::string(type) + "', 'fortran_order': False, 'shape': (1, 2), }") + data);
    CHECK(error.code() == ErrorCode::unsupported);
  }
}

TEST_CASE("any change of one byte of a header is refused or read") {
  const std::string bytes = test::read_file(golden_file("table_i4_v2.npy"));
  const TempDir directory;
  int refused = 0;
  for (std::size_t i = 0; i < 140; ++i) {
    for (const char change : {'\x00', '\x7f', '9', '\'', ')', '\xff'}) {
      std::string changed = bytes;
      changed[i] = change;
      write_file(directory / "a.npy", changed);
      try {
        read_sequences(directory / "a.npy", nullptr, rows());
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 100);
}
