#include <set>

#include "run_quant.h"
#include "support/catch.h"

using namespace quant::test;

TEST_CASE("bench prints every operation with its limit", "[bench]") {
  const auto json = json_of(run_quant({"bench", "--json", "--width", "64", "--rounds", "1", "--threads", "1"}));
  CHECK(json.at("threads") == 1);
  CHECK(json.at("width") == 64);
  std::set<std::string> names;
  for (const auto& result : json.at("results")) {
    INFO(result.dump());
    names.insert(result.at("name").get<std::string>());
    CHECK(result.at("gflops") > 0.0);
    CHECK(result.at("limit_gflops") > 0.0);
    CHECK(result.at("ratio") > 0.0);
    if (result.at("name") == "product" && result.at("shape") == "512 x 64 x 64") {
      CHECK(result.at("operations") == 2.0 * 512 * 64 * 64);
    }
  }
  for (const char* name : {"product", "gram", "inverse_factor", "gemm", "forward", "gptq", "gptq_refined"}) {
    INFO(name);
    CHECK(names.contains(name));
  }
  const Outcome text = run_quant({"bench", "--width", "32", "--rounds", "1"});
  CHECK(text.code == 0);
  CHECK(text.out.find("512 x 32 x 32") != std::string::npos);
}

TEST_CASE("bench refuses senseless widths and rounds", "[bench]") {
  CHECK(run_quant({"bench", "--width", "0"}).code == 2);
  CHECK(run_quant({"bench", "--width", "32769"}).code == 2);
  CHECK(run_quant({"bench", "--rounds", "0"}).code == 2);
}
