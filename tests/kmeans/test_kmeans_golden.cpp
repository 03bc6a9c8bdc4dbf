// Never worse than scikit-learn on the golden rows (made by make_golden.py).
#include <fstream>
#include <nlohmann/json.hpp>

#include "quant/kmeans.h"
#include "support/catch.h"

TEST_CASE("the weighted error of golden rows is no larger than scikit-learn's") {
  const auto cases = nlohmann::json::parse(std::ifstream(QUANT_SOURCE_DIR "/tests/kmeans/golden/kmeans.json"));
  REQUIRE(cases.size() == 5);
  for (const auto& item : cases) {
    const auto values = item.at("values").get<std::vector<float>>();
    const auto weights = item.at("weights").get<std::vector<float>>();
    const auto means = quant::kmeans_1d(values, weights, 1U << item.at("bits").get<unsigned>());
    double error = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      double nearest = 1e300;
      for (const double mean : means) nearest = std::min(nearest, std::pow(static_cast<double>(values[i]) - mean, 2));
      error += static_cast<double>(weights[i]) * nearest;
    }
    CHECK(error <= item.at("error").get<double>() * (1 + 1e-9));
    CHECK(error > 0.5 * item.at("error").get<double>());
  }
}
