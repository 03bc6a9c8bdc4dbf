// Codes, scales and zero points against the compressed-tensors Python package (tests/compressed_tensors/golden).
#include <cstring>
#include <filesystem>

#include "support/catch.h"
#if __has_include("support/golden.h")
#include "support/golden.h"
#endif
#include "quant/rtn.h"

#if !__has_include("support/golden.h")

TEST_CASE("golden data of compressed-tensors") { FAIL("tests/support/golden.h is missing"); }

#else

namespace {

using namespace quant;

std::filesystem::path golden_path() {
  return std::filesystem::path(QUANT_SOURCE_DIR) / "tests/compressed_tensors/golden/golden.safetensors";
}

// Cases computed in half precision by the package have other codes by design: they are left out here.
bool comparable(const test::GoldenCase& item) { return item.weight_dtype == DType::F32 && item.scheme.weights; }

std::size_t differences(const std::vector<std::int8_t>& ours, const std::vector<std::int8_t>& theirs) {
  REQUIRE(ours.size() == theirs.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) count += ours[i] != theirs[i] ? 1 : 0;
  return count;
}

void compare(const test::GoldenFile& golden, const test::GoldenCase& item) {
  INFO(item.name);
  const QuantizedTensor ours = rtn_quantize(golden.tensor(item.weight), *item.scheme.weights);
  const auto scales = golden.values<float>(item.name + "/scale_f32");
  REQUIRE(ours.scales.size() == scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i) {
    INFO("scale " << i << ": " << ours.scales[i] << " and " << scales[i]);
    CHECK(std::memcmp(&ours.scales[i], &scales[i], sizeof(float)) == 0);
  }
  CHECK(differences(ours.codes, golden.values<std::int8_t>(item.name + "/codes")) == 0);
  if (golden.has(item.name + "/zero_point")) {
    CHECK(differences(ours.zero_points, golden.values<std::int8_t>(item.name + "/zero_point")) == 0);
  }
  if (golden.has(item.name + "/weight_global_scale")) {
    CHECK(ours.global_scale == golden.values<float>(item.name + "/weight_global_scale")[0]);
  }
}

}  // namespace

TEST_CASE("codes and scales equal those of the compressed-tensors package, bit by bit", "[golden]") {
  if (!std::filesystem::exists(golden_path())) FAIL("missing: " << golden_path());
  const test::GoldenFile golden(golden_path());
  std::size_t compared = 0;
  for (const auto& item : golden.cases()) {
    if (!comparable(item)) continue;
    compare(golden, item);
    ++compared;
  }
  CHECK(compared >= 90);
}

#endif
