// Codes against the published algorithm in float64 (reference_gptq.py, which writes golden/gptq.json).
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "gptq/helpers.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

const nlohmann::json& golden() {
  static const nlohmann::json data = [] {
    std::ifstream file(std::filesystem::path(QUANT_SOURCE_DIR) / "tests/gptq/golden/gptq.json");
    return nlohmann::json::parse(file);
  }();
  return data;
}

InputStatistics golden_inputs() {
  InputStatistics inputs;
  inputs.tokens = golden().at("tokens");
  inputs.cols = golden().at("cols");
  inputs.gram = golden().at("gram").get<std::vector<float>>();
  return inputs;
}

QuantArgs args_of(const nlohmann::json& item) {
  const std::int64_t group = item.at("group");
  return make_args(NumberType::integer, item.at("bits"), item.at("symmetric"),
                   group == 0 ? Strategy::channel : Strategy::group, group);
}

GptqOptions options_of(const nlohmann::json& item) {
  GptqOptions options;
  for (const ColumnOrder order :
       {ColumnOrder::none, ColumnOrder::weight, ColumnOrder::group, ColumnOrder::group_aware}) {
    if (item.at("order") == std::string(to_string(order))) options.order = order;
  }
  options.static_groups = item.at("static_groups");
  options.dampening_frac = item.at("damping");
  return options;
}

}  // namespace

TEST_CASE("codes equal those of the published algorithm up to ties", "[golden]") {
  const auto weights = golden().at("weight").get<std::vector<float>>();
  const std::uint64_t rows = golden().at("rows");
  const InputStatistics inputs = golden_inputs();
  REQUIRE(golden().at("cases").size() == 11);
  for (const nlohmann::json& item : golden().at("cases")) {
    for (const std::uint64_t block : {std::uint64_t{128}, std::uint64_t{24}}) {
      GptqOptions options = options_of(item);
      options.block_size = block;
      const QuantizedTensor q = gptq_quantize(weights, rows, inputs, args_of(item), options).tensor;
      const auto codes = item.at("codes").get<std::vector<int>>();
      const auto scales = item.at("scales").get<std::vector<float>>();
      const auto zero_points = item.at("zero_points").get<std::vector<int>>();
      INFO(describe(q.args) << " " << item.at("order") << " static " << item.at("static_groups") << " block " << block);
      REQUIRE(q.codes.size() == codes.size());
      REQUIRE(q.scales.size() == scales.size());
      std::size_t other_codes = 0, other_scales = 0;
      for (std::size_t i = 0; i < codes.size(); ++i) other_codes += q.codes[i] != codes[i] ? 1 : 0;
      for (std::size_t i = 0; i < scales.size(); ++i) {
        // Scales of the weights themselves are exact; those of weights with errors passed on, to float32 rounding.
        const double tolerance = options.static_groups ? 0 : 1e-5;
        other_scales += std::abs(static_cast<double>(q.scales[i]) - scales[i]) > tolerance * scales[i] ? 1 : 0;
        if (!q.zero_points.empty()) other_scales += q.zero_points[i] != zero_points[i] ? 1 : 0;
      }
      CHECK(other_codes == 0);
      CHECK(other_scales == 0);
      CHECK(output_error(weights, q, inputs) == Approx(item.at("error").get<double>()).epsilon(1e-4));
    }
  }
}
