#include <limits>
#include <nlohmann/json.hpp>

#include "fakes.h"
#include "quant/dequantize.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

struct Setup {
  TempDir dir;
  FakeCheckpoint checkpoint{dir / "model"};
  Registry registry = fake_registry();
  RawContainer container;
  FakeLinear linear = make_linear(7, 10, 1);
  DequantizeOptions options;

  Setup() {
    std::filesystem::create_directories(dir / "model" / "pooling");
    for (const char* name : {"tokenizer.json", "report.json", "recipe.yaml", "pooling/config.json"}) {
      write_file(dir / "model" / name, std::string("content of ") + name);
      checkpoint.add_companion(dir / "model" / name);
    }
    checkpoint.set_config(R"({"z": 1, "torch_dtype": "float16", "quantization_config": {"quant_method": "fake"}})",
                          kFakeQuantization);
    checkpoint.add("norm.weight", {3}, {1, 2, 70000});
    add_linear(checkpoint, "up", 7, 10, linear);
    checkpoint.add_bytes("ids", DType::I64, {2}, bytes_of<std::int64_t>({5, 6}));
    checkpoint.add("empty", {0, 3}, {});
    options.output = dir / "out";
  }
  DequantizeResult run() { return dequantize_checkpoint(checkpoint, registry, container, options); }
};

template <class T>
std::vector<T> values_at(const std::string& file, std::size_t offset, std::size_t count) {
  std::vector<T> values(count);
  REQUIRE(file.size() >= offset + count * sizeof(T));
  std::memcpy(values.data(), file.data() + offset, count * sizeof(T));
  return values;
}

}  // namespace

TEST_CASE("scales of a quantized cache are not among plain weights", "[dequantize]") {
  Setup with;
  with.checkpoint.add("attn.k_scale", {1}, {0.5F});
  with.checkpoint.add("attn.v_scale", {1}, {0.25F});
  Setup without;
  CHECK(with.run().tensors == without.run().tensors);
  CHECK(read_file(with.dir / "out" / "model.raw") == read_file(without.dir / "out" / "model.raw"));
}

TEST_CASE("a quantized checkpoint becomes plain, with the files beside it", "[dequantize]") {
  Setup s;
  const DequantizeResult result = s.run();
  CHECK(result.linears == 1);
  CHECK(result.tensors == 4);
  CHECK(result.files == 1);
  CHECK(result.bytes_after == 12 + 140 + 16);
  const std::string file = read_file(s.dir / "out" / "model.raw");
  const auto bits = values_at<std::uint16_t>(file, 28, 70);
  for (std::size_t i = 0; i < bits.size(); ++i) CHECK(bits[i] == f32_to_f16(s.linear.values[i]));
  // Larger element types come first, whatever their order in the source.
  CHECK(values_at<float>(file, 16, 3) == std::vector<float>{1, 2, 70000});
  CHECK(values_at<std::int64_t>(file, 0, 2) == std::vector<std::int64_t>{5, 6});
  const auto config = nlohmann::json::parse(read_file(s.dir / "out" / "config.json"));
  CHECK_FALSE(config.contains("quantization_config"));
  CHECK(config["torch_dtype"] == "float16");
  CHECK(config["z"] == 1);
  CHECK(read_file(s.dir / "out" / "tokenizer.json") == "content of tokenizer.json");
  CHECK(read_file(s.dir / "out" / "pooling" / "config.json") == "content of pooling/config.json");
  CHECK_FALSE(std::filesystem::exists(s.dir / "out" / "report.json"));
  CHECK_FALSE(std::filesystem::exists(s.dir / "out" / "recipe.yaml"));
  CHECK_FALSE(std::filesystem::exists(s.dir / "out.partial"));
}

TEST_CASE("all floats can be written in one type", "[dequantize]") {
  Setup s;
  s.options.dtype = DType::BF16;
  CHECK(s.run().bytes_after == 6 + 140 + 16);
  const std::string file = read_file(s.dir / "out" / "model.raw");
  CHECK(values_at<std::uint16_t>(file, 20, 1)[0] == f32_to_bf16(70000.0F));
  CHECK(values_at<std::uint16_t>(file, 22, 1)[0] == f32_to_bf16(s.linear.values[0]));
  CHECK(nlohmann::json::parse(read_file(s.dir / "out" / "config.json"))["torch_dtype"] == "bfloat16");
  s.options.output = s.dir / "out32";
  s.options.dtype = DType::F32;
  s.run();
  CHECK(values_at<float>(read_file(s.dir / "out32" / "model.raw"), 28, 70) == s.linear.values);
}

TEST_CASE("a value that overflows is named and leaves nothing behind", "[dequantize]") {
  Setup s;
  s.options.dtype = DType::F16;
  try {
    s.run();
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::numerical);
    CHECK(std::string(error.what()).find("'norm.weight'") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(s.dir / "out"));
  CHECK_FALSE(std::filesystem::exists(s.dir / "out.partial"));
}

TEST_CASE("output is split into shards with an index", "[dequantize]") {
  Setup s;
  s.options.shard_bytes = 20;
  CHECK(s.run().files == 3);
  CHECK(s.container.created.at("model-00002-of-00003.raw").size() == 1);
  const auto index = nlohmann::json::parse(read_file(s.dir / "out" / "model.raw.index.json"));
  CHECK(index["metadata"]["total_size"] == 168);
  CHECK(index["weight_map"]["up.weight"] == "model-00002-of-00003.raw");
  CHECK(index["weight_map"].size() == 4);
  CHECK(std::filesystem::file_size(s.dir / "out" / "model-00002-of-00003.raw") == 140);
}

TEST_CASE("nothing is overwritten without being asked", "[dequantize]") {
  Setup s;
  std::filesystem::create_directory(s.dir / "out.partial");
  quant::test::write_file(s.dir / "out.partial" / "left", "over");
  CHECK_THROWS_AS(s.run(), Error);
  CHECK(std::filesystem::exists(s.dir / "out.partial"));
  s.options.overwrite_partial = true;
  s.run();
  CHECK(std::filesystem::exists(s.dir / "out" / "model.raw"));
  try {
    s.run();
    FAIL("overwritten");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::io);
  }
  CHECK(std::filesystem::exists(s.dir / "out" / "model.raw"));
}

TEST_CASE("wrong types, places and stops are errors", "[dequantize]") {
  Setup s;
  s.options.dtype = DType::I8;
  CHECK_THROWS_AS(s.run(), Error);
  s.options.dtype.reset();
  write_file(s.dir / "file", "");
  s.options.output = s.dir / "file" / "out";
  try {
    s.run();
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::io);
  }
  const std::atomic<bool> stop = true;
  s.options.output = s.dir / "out/";  // a trailing slash names the same directory
  s.options.scan.stop = &stop;
  CHECK_THROWS_AS(s.run(), Error);
  CHECK_FALSE(std::filesystem::exists(s.dir / "out"));
  CHECK_FALSE(std::filesystem::exists(s.dir / "out.partial"));
  s.options.scan.stop = nullptr;
  s.run();
  CHECK(std::filesystem::exists(s.dir / "out" / "model.raw"));
}
