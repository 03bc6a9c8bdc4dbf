// Scales of a quantized cache of keys and values: names, bytes, config.json, and hostile files.
#include <nlohmann/json.hpp>

#include "compressed_tensors/layout_helpers.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() {
  static const auto made = make_compressed_tensors();
  return *made;
}

QuantArgs fp8() {
  QuantArgs args;
  args.type = NumberType::floating;
  return args;
}

constexpr const char* kAttention = "model.layers.3.self_attn";

/// A checkpoint with scales of one layer as `type`.
MemoryCheckpoint checkpoint_with(const QuantArgs& args, DType type, const KvScales& scales) {
  MemoryCheckpoint checkpoint;
  const auto list = layout().stored_kv(args, kAttention, type);
  CountingSink sink(list);
  layout().write_kv(args, kAttention, type, scales, sink);
  CHECK(sink.complete());
  for (std::size_t i = 0; i < list.size(); ++i) {
    checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
  }
  const auto config = nlohmann::json::parse(layout().config_json_kv({}, {}, {}, args));
  checkpoint.mutable_config().quantization_config = config.at("quantization_config").dump();
  return checkpoint;
}

std::string error_of(const MemoryCheckpoint& checkpoint) {
  try {
    layout().find_kv(checkpoint);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::corrupt_file);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("scales of a cache have the package's names, shapes and types") {
  for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
    const auto list = layout().stored_kv(fp8(), kAttention, type);
    CHECK(list == std::vector<StoredTensor>{{"model.layers.3.self_attn.k_scale", type, {1}},
                                            {"model.layers.3.self_attn.v_scale", type, {1}}});
  }
}

TEST_CASE("what is written is found again") {
  for (const QuantArgs& args : {fp8(), QuantArgs{}}) {
    for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
      const MemoryCheckpoint checkpoint = checkpoint_with(args, type, {0.1F, 3.7F});
      const auto found = layout().find_kv(checkpoint);
      REQUIRE(found.size() == 1);
      CHECK(found[0].attention == kAttention);
      CHECK(found[0].scales.key == round_to_dtype(type, 0.1F));
      CHECK(found[0].scales.value == round_to_dtype(type, 3.7F));
      CHECK(found[0].tensors.size() == 2);
      REQUIRE(layout().kv_cache_scheme(checkpoint.config()));
      CHECK(layout().kv_cache_scheme(checkpoint.config())->type == args.type);
      CHECK(layout().find_linears(checkpoint).empty());
    }
  }
}

TEST_CASE("config.json names the scheme of the cache, with and without quantized linears") {
  const auto config = nlohmann::json::parse(layout().config_json_kv({}, {}, {"lm_head"}, fp8()));
  const auto& quantization = config.at("quantization_config");
  CHECK(quantization.at("kv_cache_scheme").dump() ==
        R"({"actorder":null,"block_structure":null,"dynamic":false,"group_size":null,"num_bits":8,)"
        R"("observer":"memoryless_minmax","observer_kwargs":{},"scale_dtype":null,"strategy":"tensor",)"
        R"("symmetric":true,"type":"float","zp_dtype":null})");
  CHECK(quantization.at("config_groups").empty());
  const auto both =
      nlohmann::json::parse(layout().config_json_kv({}, {{"group_0", *preset_scheme("W4A16")}}, {"lm_head"}, fp8()));
  CHECK(both.at("quantization_config").at("config_groups").size() == 1);
  CHECK(both.at("quantization_config").at("format") == "pack-quantized");
}

TEST_CASE("caches that have no stored scales are refused with a reason") {
  CHECK_FALSE(layout().unsupported_kv(fp8()));
  CHECK_FALSE(layout().unsupported_kv(QuantArgs{}));
  std::vector<QuantArgs> wrong(5);
  wrong[0].symmetric = false;
  wrong[1].num_bits = 4;
  wrong[2].dynamic = Dynamic::yes;
  wrong[3].strategy = Strategy::attn_head;
  wrong[4] = fp8();
  wrong[4].observer_kwargs["float8_format"] = std::string("e5m2");
  for (const QuantArgs& args : wrong) {
    REQUIRE(layout().unsupported_kv(args));
    CHECK(layout().unsupported_kv(args)->find("kv_cache_scheme") == 0);
  }
}

TEST_CASE("scales that are none are not written") {
  CountingSink sink(layout().stored_kv(fp8(), kAttention, DType::F16));
  for (const float bad : {0.0F, -1.0F, 1e6F, 1e-9F, std::nanf("")}) {
    CHECK_THROWS_WITH(layout().write_kv(fp8(), kAttention, DType::F16, {1.0F, bad}, sink),
                      Catch::Contains("model.layers.3.self_attn.v_scale"));
  }
}

TEST_CASE("damaged scales end in an error that names the tensor") {
  const std::string key = std::string(kAttention) + ".k_scale";
  const std::string value = std::string(kAttention) + ".v_scale";
  MemoryCheckpoint checkpoint = checkpoint_with(fp8(), DType::F32, {1, 1});
  checkpoint.remove(value);
  CHECK(error_of(checkpoint).find(key + " has no " + value) != std::string::npos);
  checkpoint = checkpoint_with(fp8(), DType::F32, {1, 1});
  checkpoint.remove(key);
  CHECK(error_of(checkpoint).find(value) != std::string::npos);
  checkpoint = checkpoint_with(fp8(), DType::F32, {1, 1});
  for (const float bad : {0.0F, -2.0F, std::nanf("")}) {
    checkpoint.set_values<float>(key, DType::F32, {1}, {bad});
    CHECK(error_of(checkpoint).find("not a positive number") != std::string::npos);
  }
  checkpoint.set_values<float>(key, DType::F32, {2}, {1, 1});
  CHECK(error_of(checkpoint).find("has shape [2]") != std::string::npos);
  checkpoint.set_values<std::int8_t>(key, DType::I8, {1}, {1});
  CHECK(error_of(checkpoint).find("is I8") != std::string::npos);
  // Without a scheme in config.json such names mean nothing.
  checkpoint.mutable_config().quantization_config = R"({"quant_method": "compressed-tensors", "config_groups": {}})";
  CHECK(layout().find_kv(checkpoint).empty());
}
