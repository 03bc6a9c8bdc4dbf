// Static activation scales against compressed-tensors (make_static_scales.py).
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/observers.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

nlohmann::json golden() {
  return nlohmann::json::parse(
      read_file(std::filesystem::path(QUANT_SOURCE_DIR) / "tests" / "core" / "static_scales.json"));
}

}  // namespace

TEST_CASE("scales and zero points of ranges are those of compressed-tensors") {
  const auto json = golden();
  for (const auto& item : json.at("scales")) {
    INFO(item.dump());
    QuantArgs args;
    args.num_bits = item.at("num_bits");
    args.type = item.at("type") == "int" ? NumberType::integer : NumberType::floating;
    args.symmetric = item.at("symmetric");
    const StaticScale found =
        static_activation_scale(args, item.at("minimum").get<float>(), item.at("maximum").get<float>());
    CHECK(found.scale == item.at("scale").get<float>());
    CHECK(found.zero_point == item.at("zero_point").get<int>());
  }
  for (const auto& item : json.at("global_scales")) {
    INFO(item.dump());
    CHECK(static_activation_global_scale(item.at("minimum").get<float>(), item.at("maximum").get<float>()) ==
          item.at("global_scale").get<float>());
  }
}

TEST_CASE("a range of nothing but zero has a scale") {
  QuantArgs args;
  CHECK(static_activation_scale(args, 0, 0).scale == 0x1p-23F);
  args.symmetric = false;
  CHECK(static_activation_scale(args, 0, 0).scale == 0x1p-23F);
}

TEST_CASE("scales are values of the type they are stored in, and the zero point follows from that") {
  QuantArgs args;
  args.symmetric = false;
  for (const DType type : {DType::F16, DType::BF16}) {
    for (const float high : {1.7F, 90.3F, 3e-2F}) {
      const StaticScale found = static_activation_scale(args, -1.1F * high, high, type);
      CHECK(found.scale == round_to_dtype(type, found.scale));
      CHECK(found.scale == round_to_dtype(type, 2.1F * high / 255));
      CHECK(found.zero_point == static_cast<int>(std::nearbyint(-128 + 1.1F * high / found.scale)));
    }
  }
  CHECK(static_activation_scale(args, 0, 1e-12F, DType::F16).scale == 0x1p-14F);
}

TEST_CASE("ranges and scales that are not finite are refused") {
  const float infinity = std::numeric_limits<float>::infinity();
  QuantArgs args;
  CHECK_THROWS_AS(static_activation_scale(args, -infinity, 1), Error);
  CHECK_THROWS_AS(static_activation_scale(args, 0, std::nanf("")), Error);
  CHECK_THROWS_AS(static_activation_scale(args, 0, 3e38F, DType::F16), Error);
  CHECK_THROWS_AS(static_activation_global_scale(0, infinity), Error);
  args.symmetric = false;
  CHECK_THROWS_AS(static_activation_scale(args, -3e38F, 3e38F), Error);
}

TEST_CASE("which activations wait for calibration") {
  CHECK(needs_calibrated_scale(*preset_scheme("FP8")->input_activations));
  CHECK(needs_calibrated_scale(*preset_scheme("NVFP4")->input_activations));
  CHECK_FALSE(needs_calibrated_scale(*preset_scheme("W8A8")->input_activations));
  QuantArgs args = *preset_scheme("FP8")->input_activations;
  args.observer_kwargs["absmax"] = 3.0;
  CHECK_FALSE(needs_calibrated_scale(args));
}
