// Masks and weights against the published algorithms in float64 (make_golden.py, which writes golden/sparsify.json).
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "quant/magnitude.h"
#include "quant/sparsegpt.h"
#include "quant/wanda.h"
#include "support/catch.h"

namespace {

using namespace quant;

const nlohmann::json& golden() {
  static const nlohmann::json data = [] {
    std::ifstream file(std::filesystem::path(QUANT_SOURCE_DIR) / "tests/sparsify/golden/sparsify.json");
    return nlohmann::json::parse(file);
  }();
  return data;
}

const std::uint64_t kRows = golden().at("rows"), kCols = golden().at("cols");

InputStatistics inputs_of(const std::string& gram) {
  InputStatistics inputs;
  inputs.tokens = golden().at("tokens");
  inputs.cols = kCols;
  inputs.gram = golden().at(gram).get<std::vector<float>>();
  return inputs;
}

std::vector<nlohmann::json> cases_of(const std::string& method) {
  std::vector<nlohmann::json> cases;
  for (const nlohmann::json& item : golden().at("cases")) {
    if (item.at("method") == method) cases.push_back(item);
  }
  return cases;
}

std::vector<std::uint8_t> mask_of(const nlohmann::json& item) {
  std::vector<std::uint8_t> mask;
  for (const std::string row : item.at("kept")) {
    for (const char c : row) mask.push_back(c == '1' ? 1 : 0);
  }
  return mask;
}

std::size_t removed(const std::vector<std::uint8_t>& mask) {
  return static_cast<std::size_t>(std::count(mask.begin(), mask.end(), 0));
}

SparsityPattern pattern_of(const nlohmann::json& item) {
  if (item.contains("pattern")) return parse_pattern(item.at("pattern"));
  SparsityPattern pattern;
  pattern.sparsity = item.at("sparsity");
  return pattern;
}

std::vector<float> weight() { return golden().at("weight").get<std::vector<float>>(); }

}  // namespace

TEST_CASE("magnitude removes what the published rule removes, but for the weight on its threshold", "[golden]") {
  const std::vector<float> weights = weight();
  REQUIRE(cases_of("magnitude").size() == 6);
  for (const nlohmann::json& item : cases_of("magnitude")) {
    const PrunedWeight pruned = magnitude_prune(weights, kRows, kCols, pattern_of(item), 2);
    std::vector<std::uint8_t> expected = mask_of(item);
    if (!item.contains("pattern")) {
      // The rule takes one more than the share; here it is kept: the largest of those that the rule removed.
      std::size_t last = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        if (expected[i] == 0 && (expected[last] != 0 || std::fabs(weights[i]) > std::fabs(weights[last]))) last = i;
      }
      expected[last] = 1;
      const double sparsity = item.at("sparsity");
      CHECK(removed(expected) == static_cast<std::size_t>(static_cast<double>(weights.size()) * sparsity));
    }
    INFO(item.value("pattern", "unstructured"));
    CHECK(pruned.mask == expected);
    for (std::size_t i = 0; i < weights.size(); ++i) REQUIRE(pruned.values[i] == (expected[i] != 0 ? weights[i] : 0));
  }
}

TEST_CASE("Wanda's masks equal those of the published formula", "[golden]") {
  const InputStatistics inputs = inputs_of("alive");
  InputStatistics squares;
  squares.tokens = inputs.tokens;
  squares.cols = kCols;
  for (std::uint64_t c = 0; c < kCols; ++c) squares.square.push_back(inputs.gram[c * kCols + c]);
  REQUIRE(cases_of("wanda").size() == 6);
  for (const nlohmann::json& item : cases_of("wanda")) {
    INFO(item.value("pattern", "unstructured"));
    CHECK(wanda_prune(weight(), kRows, inputs, pattern_of(item)).mask == mask_of(item));
    CHECK(wanda_prune(weight(), kRows, squares, pattern_of(item), WandaVariant::rows, 3).mask == mask_of(item));
  }
}

TEST_CASE("cumulative Wanda: exactly what the bisection on alpha removes, for as many weights", "[golden]") {
  const InputStatistics inputs = inputs_of("alive");
  REQUIRE(cases_of("wanda_cumulative").size() == 3);
  for (const nlohmann::json& item : cases_of("wanda_cumulative")) {
    const std::vector<std::uint8_t> expected = mask_of(item);
    SparsityPattern pattern;
    // Half a weight more, so that the share is rounded to the number.
    pattern.sparsity = (static_cast<double>(removed(expected)) + 0.5) / static_cast<double>(expected.size());
    CHECK(std::fabs(pattern.sparsity - item.at("sparsity").get<double>()) < 0.005);
    CHECK(wanda_prune(weight(), kRows, inputs, pattern, WandaVariant::cumulative, 2).mask == expected);
  }
}

TEST_CASE("SparseGPT's masks and weights equal the published algorithm's with its settings", "[golden]") {
  REQUIRE(cases_of("sparsegpt").size() == 5);
  for (const nlohmann::json& item : cases_of("sparsegpt")) {
    SparseGptOptions options;
    options.block_size = golden().at("block_size");
    options.threshold = SparseGptThreshold::reference;
    const InputStatistics inputs = inputs_of(item.at("gram"));
    const PrunedWeight pruned = sparsegpt_prune(weight(), kRows, inputs, pattern_of(item), options, 2);
    INFO(item.at("gram") << " " << item.value("pattern", "unstructured"));
    CHECK(pruned.record.fallback.empty());
    CHECK(pruned.mask == mask_of(item));
    const auto expected = item.at("values").get<std::vector<double>>();
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::fabs(pruned.values[i] - expected[i]));
    }
    CHECK(worst < 1e-4);
  }
}

TEST_CASE("SparseGPT's exact count differs from the reference's by less than one weight for each block and row") {
  for (const double sparsity : {0.3, 0.5, 0.71}) {
    SparsityPattern pattern;
    pattern.sparsity = sparsity;
    SparseGptOptions options;
    options.block_size = 16;
    const PrunedWeight exact = sparsegpt_prune(weight(), kRows, inputs_of("alive"), pattern, options);
    CHECK(removed(exact.mask) == static_cast<std::size_t>(static_cast<double>(kRows * kCols) * sparsity));
    options.threshold = SparseGptThreshold::reference;
    const PrunedWeight reference = sparsegpt_prune(weight(), kRows, inputs_of("alive"), pattern, options);
    CHECK(removed(reference.mask) > removed(exact.mask));
    CHECK(removed(reference.mask) <= removed(exact.mask) + kCols / 16);
  }
}
