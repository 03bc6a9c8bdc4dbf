// Patterns: their texts, and matrices that cannot have them.
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/sparsify.h"
#include "support/catch.h"

using namespace quant;

TEST_CASE("a pattern's text says what it keeps") {
  SparsityPattern pattern;
  pattern.sparsity = 0.5;
  CHECK(describe(pattern) == "50 %");
  pattern.sparsity = 1.0 / 3;
  CHECK(describe(pattern) == "33.33 %");
  pattern.sparsity = 0.7;
  pattern.block_rows = 16;
  CHECK(describe(pattern) == "70 % in blocks of 16 x 1");
  pattern.block_rows = std::numeric_limits<std::uint32_t>::max();
  CHECK(describe(pattern) == "70 % in blocks of all rows x 1");
  CHECK(describe(parse_pattern("2:4")) == "2:4");
  pattern = {};
  CHECK(describe(pattern) == "0 %");
}

TEST_CASE("texts of patterns") {
  const SparsityPattern ratio = parse_pattern("1:4");
  CHECK((ratio.keep == 1 && ratio.of == 4 && ratio.sparsity == 0.75 && ratio.semi_structured() && !ratio.blocks()));
  const SparsityPattern block = parse_pattern("16x2");
  CHECK((block.block_rows == 16 && block.block_cols == 2 && block.blocks() && !block.semi_structured()));
  for (const char* text :
       {"",    ":",   "4", "2:",  ":4",     "0:4",     "4:4", "5:4",   "2:4:8", "2:4 ", " 2:4", "-2:4", "2:99999999999",
        "0x1", "1x0", "x", "16x", "16x1x1", "70000x1", "2,4", "1:2048"}) {
    INFO(text);
    try {
      parse_pattern(text);
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      CHECK(std::string(error.what()).find("'" + std::string(text) + "'") != std::string::npos);
      CHECK(!error.hint().empty());
    }
  }
}

TEST_CASE("contradictions name what does not fit") {
  CHECK(!contradiction(parse_pattern("2:4"), 3, 8));
  CHECK(!contradiction(parse_pattern("16x3"), 5, 7));
  CHECK(!contradiction(SparsityPattern(), 0, 0));
  CHECK(contradiction(parse_pattern("2:4"), 3, 10)->find("3 x 10") != std::string::npos);
  for (const double share : {-0.1, 1.1, std::nan("")}) {
    SparsityPattern pattern;
    pattern.sparsity = share;
    CHECK(contradiction(pattern, 4, 4)->find("from 0 to 1") != std::string::npos);
  }
  SparsityPattern pattern = parse_pattern("2:4");
  pattern.block_rows = 2;
  CHECK(contradiction(pattern, 4, 4)->find("no blocks") != std::string::npos);
  pattern = parse_pattern("2:4");
  pattern.keep = 5;
  CHECK(contradiction(pattern, 4, 4).has_value());
  pattern = {};
  pattern.block_cols = 0;
  CHECK(contradiction(pattern, 4, 4).has_value());
}
