#include <cmath>
#include <limits>

#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

TEST_CASE("inspect tells what the example model is", "[inspect]") {
  const auto json = json_of(run_quant({"inspect", example_model(), "--json"}));
  CHECK(json.at("architectures") == nlohmann::json{"LlamaForCausalLM"});
  CHECK(json.at("parameters") == 4'590'848);
  CHECK(json.at("bytes") == 2 * 4'590'848);
  CHECK(json.at("dtypes").at("F16").at("elements") == 4'590'848);
  CHECK(json.at("modules").at("Linear").at("tensors") == 42);
  CHECK(json.at("quantization").is_null());
  CHECK(json.at("tie_word_embeddings") == true);
  CHECK(json.at("files").size() == 1);
  CHECK_FALSE(json.contains("statistics"));
  const Outcome text = run_quant({"inspect", example_model(), "--tensors"});
  CHECK(text.code == 0);
  CHECK(text.out.find("LlamaForCausalLM") != std::string::npos);
  CHECK(text.out.find("model.layers.5.mlp.down_proj.weight") != std::string::npos);
}

TEST_CASE("inspect sees a quantized model as what it stands for", "[inspect]") {
  const auto json = json_of(run_quant({"inspect", quantized_example().string(), "--json", "--stats"}));
  CHECK(json.at("parameters") == 4'590'848);
  CHECK(json.at("quantization").at("linears") == 42);
  CHECK(json.at("quantization").at("readable") == true);
  const auto& scheme = json.at("quantization").at("schemes").at(0);
  CHECK(scheme.at("format") == "pack-quantized");
  CHECK(scheme.at("bits_per_weight").get<double>() > 4.0);
  CHECK(scheme.at("bits_per_weight").get<double>() < 4.3);
  CHECK(json.at("modules").at("Linear (quantized)").at("tensors") == 42);
  CHECK(json.at("problems").empty());
}

TEST_CASE("inspect measures values and names what is no number", "[inspect]") {
  TempDir dir;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  write_safetensors(dir / "model.safetensors",
                    {{"good", {0, 1, -2, 1}}, {"bad", {1, nan, std::numeric_limits<float>::infinity()}}});
  const Outcome outcome = run_quant({"inspect", (dir / "model.safetensors").string(), "--outliers", "--json"});
  CHECK(outcome.code == 1);
  CHECK(outcome.err.find("'bad'") != std::string::npos);
  CHECK(outcome.err.find("element 1") != std::string::npos);
  const auto json = json_of(outcome);
  CHECK(json.at("problems").size() == 1);
  for (const auto& entry : json.at("statistics")) {
    if (entry.at("name") == "bad") {
      CHECK(entry.at("nans") == 1);
      CHECK(entry.at("infinities") == 1);
    } else {
      CHECK(entry.at("min") == -2.0);
      CHECK(entry.at("max") == 1.0);
      CHECK(entry.at("mean") == 0.0);
      CHECK(entry.at("std").get<double>() == Approx(std::sqrt(1.5)));
      CHECK(entry.at("kurtosis").get<double>() == Approx(18.0 / 4.0 / 2.25));
      CHECK(entry.at("zeros") == 1);
      CHECK(entry.at("outliers") == 0);
    }
  }
  CHECK(run_quant({"inspect", (dir / "model.safetensors").string()}).code == 0);  // values are not read
}

TEST_CASE("statistics do not depend on the number of threads", "[inspect]") {
  const std::vector<std::string> arguments{"inspect", example_model(), "--outliers", "--json", "--threads"};
  auto one = arguments;
  one.push_back("1");
  auto three = arguments;
  three.push_back("3");
  CHECK(run_quant(one).out == run_quant(three).out);
}

TEST_CASE("inspect refuses broken files", "[inspect]") {
  TempDir dir;
  write_file(dir / "model.safetensors", "garbage that is no header");
  CHECK(run_quant({"inspect", (dir / "model.safetensors").string()}).code == 5);
}

TEST_CASE("inspect and verify know quantized caches and static inputs", "[inspect]") {
  const std::filesystem::path golden = std::filesystem::path(QUANT_SOURCE_DIR) / "tests/evaluate/golden";
  for (const char* name : {"int8_cache", "fp8_cache"}) {
    const std::string model = (golden / name).string();
    const auto json = json_of(run_quant({"inspect", model, "--json"}));
    CHECK(json.at("parameters") == 18592);  // 2 x 48 x 32, 2 x (2 x 32 x 32 + 2 x 16 x 32 + 3 x 48 x 32), 5 x 32
    CHECK(json.at("quantization").at("kv_cache").at("attention_modules") == 2);
    CHECK(json.at("modules").at("Cache scale").at("tensors") == 4);
    CHECK_FALSE(json.at("modules").contains("(no module)"));
    CHECK(run_quant({"inspect", model}).out.find("with scales of 2 attention modules") != std::string::npos);
    const auto verified = json_of(run_quant({"verify", model, "--json"}));
    CHECK(verified.at("ok") == true);
    CHECK(verified.at("caches") == 2);
    CHECK(run_quant({"verify", model}).out.find("keys and values of 2 attention modules") != std::string::npos);
  }
  for (const char* name : {"int8_asymmetric", "fp8", "nvfp4"}) {
    const std::string model = (golden / name).string();
    const auto json = json_of(run_quant({"inspect", model, "--json"}));
    CHECK(json.at("parameters") == 18592);
    CHECK(json.at("quantization").at("kv_cache").is_null());
    CHECK(json_of(run_quant({"verify", model, "--json"})).at("errors") == 0);
  }
}
