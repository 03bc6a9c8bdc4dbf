// The search against an independent one by NumPy (golden/make_awq.py).
#include <nlohmann/json.hpp>

#include "quant/awq.h"
#include "smoothquant/sample.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

DuoScaling duo_of(const std::string& text) {
  return text == "yes" ? DuoScaling::yes : text == "no" ? DuoScaling::no : DuoScaling::both;
}

}  // namespace

TEST_CASE("the search finds what NumPy finds") {
  const auto golden =
      nlohmann::json::parse(read_file(std::filesystem::path(QUANT_SOURCE_DIR) / "tests/awq/golden/awq.json"));
  InputStatistics inputs;
  inputs.cols = golden.at("cols");
  inputs.tokens = 200;
  inputs.gram = golden.at("gram").get<std::vector<float>>();
  inputs.mean_abs = golden.at("mean_abs").get<std::vector<float>>();
  auto weights = golden.at("weights").get<std::vector<std::vector<float>>>();
  for (const auto& item : golden.at("cases")) {
    const std::int64_t group = item.at("group");
    const bool channel = static_cast<std::uint64_t>(group) == inputs.cols;
    std::vector<LinearTask> tasks(weights.size());
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      tasks[i].weight = weights[i];
      tasks[i].cols = inputs.cols;
      tasks[i].rows = weights[i].size() / inputs.cols;
      tasks[i].args = int_args(item.at("bits"), channel ? Strategy::channel : Strategy::group, channel ? 0 : group,
                               item.at("symmetric"));
    }
    AwqOptions options;
    options.duo_scaling = duo_of(item.at("duo"));
    options.n_grid = item.at("n_grid");
    const AwqResult found = awq_search({ProducerKind::norm, "n", tasks, {}}, inputs, options, {2, nullptr});
    const auto losses = item.at("losses").get<std::vector<double>>();
    const std::size_t best = item.at("best");
    CHECK(awq_grid(options.duo_scaling, options.n_grid).size() == losses.size());
    CHECK(found.loss_unscaled == Approx(losses[0]).epsilon(1e-4));
    CHECK(found.loss == Approx(losses[best]).epsilon(1e-4));
    const auto factors = item.at("factors").get<std::vector<float>>();
    REQUIRE(found.factors.size() == factors.size());
    for (std::size_t c = 0; c < factors.size(); ++c) CHECK(found.factors[c] == Approx(factors[c]).epsilon(1e-5));
  }
}
