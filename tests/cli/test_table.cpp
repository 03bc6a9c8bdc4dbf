#include <cmath>
#include <limits>

#include "metrics_text.h"
#include "output.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "table.h"

using namespace quant;
using namespace quant::cli;

TEST_CASE("tables align their columns and leave no spaces at line ends", "[table]") {
  Table table({{"name"}, {"bytes", Table::Align::right}, {"remark"}});
  table.add({"a", "1", "x"});
  table.add({"gr\xc3\xbc\xc3\x9f", "12345678", ""});
  CHECK(table.text() ==
        "name     bytes  remark\n"
        "----  --------  ------\n"
        "a            1  x\n"
        "gr\xc3\xbc\xc3\x9f  12345678\n");
  CHECK(table.text("  ").starts_with("  name"));
  CHECK(table.size() == 2);
}

TEST_CASE("a row of the wrong length is a defect", "[table]") {
  Table table({{"a"}, {"b"}});
  CHECK_THROWS_AS(table.add({"1"}), Error);
}

TEST_CASE("tables escape what terminals act on before they measure it", "[table]") {
  Table table({{"n"}, {"m"}});
  table.add({"\x1b[2J", "x"});
  CHECK(table.text() == "n        m\n-------  -\n\\x1B[2J  x\n");
}

TEST_CASE("fields stand under each other", "[table]") {
  CHECK(field_list({{"a", "1"}, {"long", "2\n"}}) == "a:    1\nlong: 2\\x0A\n");
}

TEST_CASE("JSON holds only what JSON knows", "[output]") {
  const Json json = {{"inf", std::numeric_limits<double>::infinity()}, {"nan", std::nan("")}, {"bad", "\xff"}};
  const auto parsed = nlohmann::json::parse(json_text(json));
  CHECK(parsed["inf"].is_null());
  CHECK(parsed["nan"].is_null());
  CHECK(parsed["bad"] == "\xef\xbf\xbd");
}

TEST_CASE("a file is replaced as a whole", "[output]") {
  test::TempDir dir;
  write_file(dir / "a.txt", "one");
  write_file(dir / "a.txt", "two");
  CHECK(test::read_file(dir / "a.txt") == "two");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
  try {
    write_file(dir / "missing" / "a.txt", "x");
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::io);
    CHECK(std::string(error.what()).find("a.txt") != std::string::npos);
  }
  // The target is a directory: renaming fails and leaves nothing behind.
  std::filesystem::create_directory(dir / "d");
  CHECK_THROWS_AS(write_file(dir / "d", "x"), Error);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);
}

TEST_CASE("measures are written alike everywhere", "[metrics]") {
  CHECK(sqnr_text(std::numeric_limits<double>::infinity()) == "exact");
  CHECK(sqnr_text(21.429) == "21.43 dB");
  CHECK(nmse_text(0) == "0");
  CHECK(nmse_text(0.00719) == "7.190e-03");
  CHECK(shape_text({}) == "scalar");
  CHECK(shape_text({3, 4}) == "3 x 4");
}
