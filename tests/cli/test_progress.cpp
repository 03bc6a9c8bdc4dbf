#include "progress.h"
#include "support/catch.h"

using namespace quant::cli;

TEST_CASE("progress tells share, rate and time left", "[progress]") {
  const ProgressState state{2'000'000'000, 8'000'000'000, 0, 4.0, "model.layers.3", true};
  CHECK(progress_text("quantizing", state, 200) ==
        "quantizing  25 %  2.00 GB of 8.00 GB  500 MB/s  12 s left  model.layers.3");
}

TEST_CASE("what an earlier run did is no part of the rate", "[progress]") {
  const ProgressState state{2'000'000'000, 8'000'000'000, 1'000'000'000, 4.0, "", true};
  CHECK(progress_text("quantizing", state, 200) == "quantizing  25 %  2.00 GB of 8.00 GB  250 MB/s  24 s left");
}

TEST_CASE("no rate is told before there is one", "[progress]") {
  CHECK(progress_text("reading", {0, 100, 0, 5.0, "", false}, 80) == "reading   0 %  0 of 100 weights");
  CHECK(progress_text("reading", {50, 100, 0, 0.0, "", false}, 80) == "reading  50 %  50 of 100 weights");
  CHECK(progress_text("reading", {0, 0, 0, 0.0, "", false}, 80) == "reading 100 %  0 of 0 weights");
  // A share that only rounds to 100 % is not shown as done.
  CHECK(progress_text("reading", {999, 1000, 0, 0.0, "", false}, 14) == "reading  99 % ");
}

TEST_CASE("values are counted as weights and lines are cut at whole characters", "[progress]") {
  CHECK(progress_text("r", {5'000'000, 10'000'000, 0, 1.0, "", false}, 80) ==
        "r  50 %  5.00 M of 10.0 M weights  5.00 M/s  1.0 s left");
  CHECK(progress_text("gr\xc3\xbc\xc3\x9f"
                      "e",
                      {0, 1, 0, 0, "", false}, 4) == "gr\xc3\xbc\xc3\x9f");
}

TEST_CASE("nothing is drawn where there is no terminal", "[progress]") {
  ProgressLine quiet("x", true);
  CHECK_FALSE(quiet.enabled());
  const auto options = scan_options(quiet, 3);
  CHECK_FALSE(options.progress);
  CHECK(options.threads == 3);
  CHECK(options.stop != nullptr);
}
