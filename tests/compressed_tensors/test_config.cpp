#include "layout_helpers.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using Json = nlohmann::ordered_json;

namespace {

const Layout& layout() {
  static const auto instance = make_compressed_tensors();
  return *instance;
}

Scheme preset(const char* name, std::vector<std::string> targets = {"Linear"}) {
  Scheme scheme = *preset_scheme(name);
  scheme.targets = std::move(targets);
  return scheme;
}

Json config_of(const std::vector<SchemeGroup>& groups, const std::string& model = "{}") {
  ModelConfig config;
  config.text = model;
  return Json::parse(layout().config_json(config, groups, {"lm_head"}));
}

}  // namespace

TEST_CASE("config.json of a packed model, whole") {
  Scheme scheme = preset("W4A16");
  scheme.weights->actorder = ActOrder::weight;
  const Json config = config_of({{"group_0", scheme}});
  const Json expected = Json::parse(R"({"config_groups": {"group_0": {"format": "pack-quantized",
      "input_activations": null, "output_activations": null, "targets": ["Linear"],
      "weights": {"actorder": "static", "block_structure": null, "dynamic": false, "group_size": 128, "num_bits": 4,
        "observer": "memoryless_minmax", "observer_kwargs": {}, "scale_dtype": null, "strategy": "group",
        "symmetric": true, "type": "int", "zp_dtype": null}}},
    "format": "pack-quantized", "global_compression_ratio": null, "ignore": ["lm_head"], "kv_cache_scheme": null,
    "quant_method": "compressed-tensors", "quantization_status": "compressed", "sparsity_config": {},
    "transform_config": {}, "version": "0.18.0"})");
  CHECK(config.at("quantization_config").dump(2) == expected.dump(2));  // the order of keys, too
}

TEST_CASE("the model's own keys keep their order, and an older quantization is replaced") {
  const std::string model = R"({"z": 1, "a": {"c": [1.5, "é"], "b": null}, "quantization_config": {"old": 1},
                               "compression_config": {}, "m": 123456789012345})";
  const Json config = config_of({{"group_0", preset("W8A8")}}, model);
  std::vector<std::string> keys;
  for (const auto& [key, value] : config.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"z", "a", "quantization_config", "m"});
  CHECK(config.at("a").dump() == R"({"c":[1.5,"é"],"b":null})");
  CHECK(config.at("m") == 123456789012345);
  CHECK_FALSE(config.at("quantization_config").contains("old"));
  CHECK(layout().config_json({}, {{"group_0", preset("W8A8")}}, {}).starts_with("{\n  \"quantization_config\": {\n"));
}

TEST_CASE("several formats make the model mixed") {
  const Json config = config_of({{"group_0", preset("W4A16", {"re:.*mlp.*"})}, {"group_1", preset("FP8_DYNAMIC")}});
  const Json& quantization = config.at("quantization_config");
  CHECK(quantization.at("format") == "mixed-precision");
  CHECK(quantization.at("config_groups").at("group_0").at("format") == "pack-quantized");
  CHECK(quantization.at("config_groups").at("group_1").at("format") == "float-quantized");
  CHECK(quantization.at("config_groups").at("group_1").at("input_activations").at("dynamic") == true);
  CHECK(quantization.at("config_groups").at("group_1").at("input_activations").at("observer").is_null());
  const Json same = config_of({{"group_0", preset("W4A16", {"a"})}, {"group_1", preset("W8A16", {"b"})}});
  CHECK(same.at("quantization_config").at("format") == "pack-quantized");
}

TEST_CASE("a group that quantizes no weights has no format") {
  const Json config = config_of({{"a", preset("UNQUANTIZED", {"x"})}, {"b", preset("W8A16")}});
  const Json& quantization = config.at("quantization_config");
  CHECK(quantization.at("format") == "pack-quantized");
  CHECK(quantization.at("config_groups").at("a").at("format").is_null());
  CHECK(config_of({}).at("quantization_config").at("format") == "dense");
}

TEST_CASE("types, blocks and own options are written the way readers know them") {
  const auto weights = [&](const Scheme& scheme) {
    return config_of({{"group_0", scheme}}).at("quantization_config").at("config_groups").at("group_0").at("weights");
  };
  CHECK(weights(preset("NVFP4A16")).at("scale_dtype") == "torch.float8_e4m3fn");
  CHECK(weights(preset("MXFP4")).at("scale_dtype") == "torch.uint8");
  CHECK(weights(preset("FP8_BLOCK")).at("block_structure") == Json::array({128, 128}));
  CHECK(weights(preset("W4A16_ASYM")).at("zp_dtype") == "torch.int8");
  Scheme own = preset("W4A16");
  own.weights->observer = "mse_joint";
  own.weights->observer_kwargs = {
      {"norm", 2.4}, {"symmetric_range", std::string("full")}, {"grid", std::int64_t{100}}, {"flag", true}};
  CHECK(weights(own).at("observer") == "mse_joint");
  CHECK(weights(own).at("observer_kwargs").dump() == R"({"flag":true,"grid":100,"norm":2.4,"symmetric_range":"full"})");
  Scheme e5m2 = preset("FP8_DYNAMIC");
  CHECK_FALSE(weights(e5m2).contains("float8_format"));
  e5m2.weights->observer_kwargs["float8_format"] = std::string("e5m2");
  CHECK(weights(e5m2).at("float8_format") == "e5m2");  // a key that makes readers of E4M3 stop
  Scheme local = preset("NVFP4");
  CHECK(config_of({{"g", local}})
            .at("quantization_config")
            .at("config_groups")
            .at("g")
            .at("input_activations")
            .at("dynamic") == "local");
}

TEST_CASE("only configs of this method are recognized") {
  ModelConfig config;
  CHECK_FALSE(layout().recognizes(config));
  for (const char* other : {"{}", "[]", "{", R"({"quant_method": "gptq"})", R"({"quant_method": 3})", "null"}) {
    config.quantization_config = other;
    CHECK_FALSE(layout().recognizes(config));
  }
  config.quantization_config = R"({"quant_method": "compressed-tensors"})";
  CHECK(layout().recognizes(config));
}

TEST_CASE("a model's config that is no object, or too deep, is an error") {
  ModelConfig config;
  for (const std::string& bad : {std::string("[]"), std::string("{"), std::string("3"), std::string(100000, '[')}) {
    config.text = bad;
    CHECK_THROWS_AS(layout().config_json(config, {{"g", preset("W8A8")}}, {}), Error);
  }
}
