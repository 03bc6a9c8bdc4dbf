// Files that nobody vouches for: every one must end in an Error that names what is wrong, never in a crash.
#include <functional>
#include <limits>

#include "layout_helpers.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() {
  static const auto instance = make_compressed_tensors();
  return *instance;
}

MemoryCheckpoint valid(const std::string& name) {
  const GoldenFile& golden = compressed_tensors_golden();
  const GoldenCase& item = golden.find_case(name);
  MemoryCheckpoint checkpoint;
  for (const auto& suffix : item.stored) checkpoint.set("m." + suffix, golden.tensor(item.name + "/" + suffix));
  const std::string text = layout().config_json({}, {{"group_0", item.scheme}}, {});
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  return checkpoint;
}

/// The message of the error, which must be of code corrupt_file or unsupported.
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& problem) {
    CHECK((problem.code() == ErrorCode::corrupt_file || problem.code() == ErrorCode::unsupported));
    return problem.what();
  }
  return "";
}

std::string find_error(const MemoryCheckpoint& checkpoint) {
  return error_of([&] { layout().find_linears(checkpoint); });
}

std::string read_error(const MemoryCheckpoint& checkpoint) {
  const auto linear = layout().find_linears(checkpoint).at(0);
  return error_of([&] {
    QuantizedTensor out;
    layout().read_rows(checkpoint, linear, 0, linear.shape.rows, out);
  });
}

void set_zeros(MemoryCheckpoint& checkpoint, const std::string& name, DType dtype, const Shape& shape) {
  checkpoint.set(name, dtype, shape, std::vector<std::byte>(byte_count(dtype, shape)));
}

std::string config_error(const std::function<void(nlohmann::json&)>& change) {
  MemoryCheckpoint checkpoint = valid("int4_asym_group_w33x48");
  auto config = nlohmann::json::parse(checkpoint.config().quantization_config);
  change(config);
  checkpoint.mutable_config().quantization_config = config.dump();
  return find_error(checkpoint);
}

bool contains(const std::string& text, const std::string& part) {
  INFO("message: " << text);
  CHECK(text.find(part) != std::string::npos);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("missing companions are named") {
  for (const char* name :
       {"int4_asym_group_w33x48", "w8a8_asym_channel", "nvfp4_w40x64", "mxfp4_w40x64", "fp8_block_w33x48"}) {
    const MemoryCheckpoint whole = valid(name);
    for (const auto& info : whole.tensors()) {
      MemoryCheckpoint checkpoint = whole;
      checkpoint.remove(info.name);
      if (whole.tensors().size() == 2 && info.name == "m.weight_scale")
        CHECK(contains(find_error(checkpoint), "m.weight_scale"));
      CHECK(contains(find_error(checkpoint), "m.weight"));
    }
  }
}

TEST_CASE("companions of a wrong type or shape are named") {
  struct Bad {
    const char* golden;
    const char* tensor;
    DType dtype;
    Shape shape;
  };
  const Bad list[] = {{"int4_asym_group_w33x48", "m.weight_scale", DType::F32, {33, 4}},
                      {"int4_asym_group_w33x48", "m.weight_scale", DType::F32, {3, 33}},
                      {"int4_asym_group_w33x48", "m.weight_scale", DType::I32, {33, 3}},
                      {"int4_asym_group_w33x48", "m.weight_scale", DType::F8_E4M3, {33, 3}},
                      {"int4_asym_group_w33x48", "m.weight_zero_point", DType::I8, {33, 3}},
                      {"int4_asym_group_w33x48", "m.weight_zero_point", DType::I32, {4, 3}},
                      {"int4_asym_group_w33x48", "m.weight_shape", DType::I64, {3}},
                      {"int4_asym_group_w33x48", "m.weight_shape", DType::F32, {2}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::I32, {33, 7}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::I32, {32, 6}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::I32, {33}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::I32, {1, 33, 6}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::I32, {0, 6}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::U8, {33, 24}},
                      {"int4_asym_group_w33x48", "m.weight_packed", DType::F32, {33, 6}},
                      {"w8a8_asym_channel", "m.weight_zero_point", DType::I32, {33, 1}},
                      {"w8a8_asym_channel", "m.weight", DType::F8_E4M3, {33, 48}},
                      {"w8a8_asym_channel", "m.weight", DType::I8, {32, 48}},
                      {"nvfp4_w40x64", "m.weight_scale", DType::F32, {40, 4}},
                      {"nvfp4_w40x64", "m.weight_scale", DType::F8_E4M3, {40, 2}},
                      {"nvfp4_w40x64", "m.weight_global_scale", DType::F32, {2}},
                      {"nvfp4_w40x64", "m.weight_global_scale", DType::BF16, {1}},
                      {"mxfp4_w40x64", "m.weight_scale", DType::BF16, {40, 2}},
                      {"mxfp8_w40x64", "m.weight_scale", DType::U8, {40, 3}},
                      {"fp8_block_w33x48", "m.weight_scale", DType::F32, {33, 1}},
                      {"fp8_channel_w33x48", "m.weight", DType::I8, {33, 48}}};
  for (const Bad& bad : list) {
    CAPTURE(bad.golden, bad.tensor, to_string(bad.shape));
    MemoryCheckpoint checkpoint = valid(bad.golden);
    set_zeros(checkpoint, bad.tensor, bad.dtype, bad.shape);
    const std::string message = find_error(checkpoint);
    CHECK(contains(message, "m.weight"));
    CHECK(contains(message, "in-memory"));
  }
}

TEST_CASE("hostile sizes do not fool the reader") {
  for (const std::array<std::int64_t, 2> shape : {std::array<std::int64_t, 2>{33, -48},
                                                  {-33, 48},
                                                  {0, 48},
                                                  {33, 0},
                                                  {33, 49},
                                                  {33, 40},
                                                  {34, 48},
                                                  {33, std::numeric_limits<std::int64_t>::max()},
                                                  {std::numeric_limits<std::int64_t>::min(), 48}}) {
    MemoryCheckpoint checkpoint = valid("int4_asym_group_w33x48");
    checkpoint.set_values("m.weight_shape", DType::I64, {2}, std::vector<std::int64_t>(shape.begin(), shape.end()));
    CHECK_FALSE(find_error(checkpoint).empty());
  }
}

TEST_CASE("values that no writer makes are refused when rows are read") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, inf, -inf}) {
    MemoryCheckpoint checkpoint = valid("int4_asym_group_w33x48");
    std::vector<float> scales(99, 1.0F);
    scales[50] = bad;
    checkpoint.set_values("m.weight_scale", DType::F32, {33, 3}, scales);
    CHECK(contains(read_error(checkpoint), "m.weight_scale"));
  }
  for (const float bad : {nan, inf, 0.0F, -1.0F}) {
    MemoryCheckpoint checkpoint = valid("nvfp4_w40x64");
    checkpoint.set_values("m.weight_global_scale", DType::F32, {1}, std::vector<float>{bad});
    CHECK(contains(read_error(checkpoint), "m.weight_global_scale"));
  }
  MemoryCheckpoint mx = valid("mxfp4_w40x64");
  mx.bytes("m.weight_scale")[7] = std::byte{255};
  CHECK(contains(read_error(mx), "m.weight_scale"));
  MemoryCheckpoint fp8_scale = valid("nvfp4_w40x64");
  fp8_scale.bytes("m.weight_scale")[3] = std::byte{0x7F};
  CHECK(contains(read_error(fp8_scale), "m.weight_scale"));
  MemoryCheckpoint wide = valid("w4a8_group");
  wide.bytes("m.weight")[100] = std::byte{8};
  CHECK(contains(read_error(wide), "holds 8"));
}

TEST_CASE("wrong types in quantization_config are named") {
  const auto weights = [](const char* key, const nlohmann::json& value) {
    return config_error([&](auto& c) { c["config_groups"]["group_0"]["weights"][key] = value; });
  };
  const nlohmann::json wrong[] = {nlohmann::json::array(), nlohmann::json::object(), "no such word", 1.5, -7, true};
  for (const auto& value : wrong) {
    CAPTURE(value.dump());
    if (!value.is_boolean()) CHECK(contains(weights("symmetric", value), "symmetric"));
    CHECK(contains(weights("num_bits", value), "num_bits"));
    CHECK(contains(weights("type", value), "type"));
    CHECK(contains(weights("strategy", value), "strategy"));
    CHECK(contains(weights("group_size", value), "group_size"));
    CHECK(contains(weights("block_structure", value), "block_structure"));
    if (!value.is_boolean()) CHECK(contains(weights("dynamic", value), "dynamic"));
    if (!value.is_boolean()) CHECK(contains(weights("actorder", value), "actorder"));
    CHECK(contains(weights("scale_dtype", value), "scale_dtype"));
    if (!value.is_object()) CHECK(contains(weights("observer_kwargs", value), "observer_kwargs"));
    if (!value.is_object()) {
      CHECK(contains(config_error([&](auto& c) { c["config_groups"]["group_0"]["weights"] = value; }), "weights"));
      CHECK(contains(config_error([&](auto& c) { c["config_groups"] = value; }), "config_groups"));
    }
    if (!value.is_string()) {
      CHECK(contains(
          config_error([&](auto& c) { c["config_groups"]["group_0"]["targets"] = nlohmann::json::array({value}); }),
          "targets"));
    }
  }
  for (const std::int64_t bits : {0L, -1L, 9L, 33L, 1L << 40}) CHECK(contains(weights("num_bits", bits), "num_bits"));
  for (const char* block : {"", "x", "16", "16x", "x16", "16x16x16", "-1x4", "0x4", "99999999999x1"}) {
    CHECK(contains(weights("block_structure", block), "block_structure"));
  }
}

TEST_CASE("configs without sense are refused") {
  CHECK(contains(config_error([](auto& c) { c.erase("config_groups"); }), "config_groups"));
  CHECK(contains(config_error([](auto& c) { c["config_groups"] = nlohmann::json::object(); }), "no target"));
  CHECK(contains(config_error([](auto& c) { c["config_groups"]["group_0"].erase("weights"); }), "no target"));
  CHECK(contains(config_error([](auto& c) { c["config_groups"] = {{"NOPE", {"Linear"}}}; }), "NOPE"));
  CHECK(contains(config_error([](auto& c) { c["config_groups"]["group_0"]["targets"] = {"re:("}; }), "re:("));
  CHECK(contains(config_error([](auto& c) { c["version"] = 3; }), "version"));
  CHECK(contains(config_error([](auto& c) { c["format"] = 3; }), "format"));
  CHECK(contains(config_error([](auto& c) { c["sparsity_config"] = {{"format", "sparse-24-bitmask"}}; }), "sparse"));
  CHECK(contains(config_error([](auto& c) { c["config_groups"]["group_0"]["weights"]["num_bits"] = 8; }), "m.weight"));
  CHECK(
      contains(config_error([](auto& c) { c["config_groups"]["group_0"]["weights"]["group_size"] = 8; }), "m.weight"));
  MemoryCheckpoint checkpoint = valid("int4_asym_group_w33x48");
  for (const std::string& text : {std::string(""), std::string("[]"), std::string("{\"a\":"), std::string(200000, '['),
                                  std::string("\xff\xfe")}) {
    checkpoint.mutable_config().quantization_config = text;
    CHECK_FALSE(find_error(checkpoint).empty());
  }
}

TEST_CASE("scales without weights, and weights without scales, are refused") {
  MemoryCheckpoint checkpoint;
  checkpoint.mutable_config() = valid("w8a8_channel").config();
  set_zeros(checkpoint, "lost.weight_scale", DType::F32, {4, 1});
  CHECK(contains(find_error(checkpoint), "lost.weight_scale"));
  checkpoint.remove("lost.weight_scale");
  set_zeros(checkpoint, "bare.weight", DType::I8, {4, 4});
  CHECK(contains(find_error(checkpoint), "bare.weight_scale"));
}

TEST_CASE("rows outside a linear are an error of the caller") {
  const MemoryCheckpoint checkpoint = valid("int4_asym_group_w33x48");
  auto linear = layout().find_linears(checkpoint).at(0);
  QuantizedTensor out;
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 0, 34, out), Error);
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 64, 1, out), Error);
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 1, 1, out), Error);
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 0, 0, out), Error);
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 32, ~0ULL, out), Error);
  linear.format = "marlin";
  CHECK_THROWS_AS(layout().read_rows(checkpoint, linear, 0, 33, out), Error);
}
