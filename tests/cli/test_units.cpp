#include "quant/error.h"
#include "support/catch.h"
#include "units.h"

using namespace quant;
using namespace quant::cli;

TEST_CASE("sizes are read with decimal and binary suffixes", "[units]") {
  CHECK(parse_size("4096", "--x") == 4096);
  CHECK(parse_size("500M", "--x") == 500'000'000);
  CHECK(parse_size("8G", "--x") == 8'000'000'000);
  CHECK(parse_size("5GB", "--x") == 5'000'000'000);
  CHECK(parse_size("5gb", "--x") == 5'000'000'000);
  CHECK(parse_size("1.5 GiB", "--x") == 1'610'612'736);
  CHECK(parse_size("2k", "--x") == 2000);
  CHECK(parse_size("1Ti", "--x") == 1'099'511'627'776);
  CHECK(parse_size("7B", "--x") == 7);
}

TEST_CASE("what is no size is refused with the option's name", "[units]") {
  for (const char* text : {"", "G", "-1G", "1Q", "1GBB", "1.2.3G", "0", "0.1", "1e30", "99999999T", "nan", "inf",
                           "0x10", "5 G B", ".", "+5"}) {
    INFO(text);
    try {
      parse_size(text, "--memory");
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      CHECK(std::string(error.what()).find("--memory") != std::string::npos);
      CHECK_FALSE(error.hint().empty());
    }
  }
}

TEST_CASE("numbers are written for people", "[units]") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(999) == "999 B");
  CHECK(human_bytes(1000) == "1.00 kB");
  CHECK(human_bytes(9'181'696) == "9.18 MB");
  CHECK(human_bytes(99'960'000) == "100 MB");
  CHECK(human_bytes(999'600'000) == "1.00 GB");
  CHECK(human_bytes(5'000'000'000'000'000) == "5000 TB");
  CHECK(human_count(4'590'848) == "4.59 M");
  CHECK(human_count(12) == "12");
  CHECK(human_seconds(0.0444) == "44 ms");
  CHECK(human_seconds(0.9996) == "1.0 s");
  CHECK(counted(1, "file") == "1 file");
  CHECK(counted(0, "file") == "0 files");
  CHECK(human_seconds(59.4) == "59 s");
  CHECK(human_seconds(59.6) == "1:00");
  CHECK(human_seconds(7384) == "2:03:04");
  CHECK(human_seconds(1.0 / 0.0) == "?");
  CHECK(percent(1, 8) == "12.5 %");
  CHECK(percent(0, 0) == "0.0 %");
}

TEST_CASE("text from files cannot act on the terminal", "[units]") {
  CHECK(printable("plain.name-7") == "plain.name-7");
  CHECK(printable("\x1b[31mred\n") == "\\x1B[31mred\\x0A");
  CHECK(printable("gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x98\x80") ==
        "gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x98\x80");
  CHECK(printable("\xc2\x9b") == "\\xC2\\x9B");                    // C1 control
  CHECK(printable("\xc0\xaf") == "\\xC0\\xAF");                    // overlong
  CHECK(printable("\xe0\x80\xaf") == "\\xE0\\x80\\xAF");           // overlong
  CHECK(printable("\xed\xa0\x80") == "\\xED\\xA0\\x80");           // surrogate
  CHECK(printable("\xf4\x90\x80\x80") == "\\xF4\\x90\\x80\\x80");  // beyond U+10FFFF
  CHECK(printable("\xe2\x80\xae") == "\\xE2\\x80\\xAE");           // right-to-left override
  CHECK(printable("a\xe4") == "a\\xE4");                           // cut short
  CHECK(display_width("gr\xc3\xbc\xc3\x9f") == 4);
}
