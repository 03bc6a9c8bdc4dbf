#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void copy_folder(const fs::path& from, const fs::path& to) { fs::copy(from, to, fs::copy_options::recursive); }

bool has_check(const nlohmann::json& result, const std::string& check) {
  for (const auto& finding : result.at("findings")) {
    if (finding.at("check") == check) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("a model compared with its quantized form shows the report's error", "[compare]") {
  const std::string output = quantized_example().string();
  const auto json = json_of(run_quant({"compare", example_model(), output, "--json"}));
  const auto report = json_of(run_quant({"report", output, "--json"}));
  CHECK(json.at("equal") == false);
  CHECK(json.at("only_a").empty());
  CHECK(json.at("only_b").empty());
  CHECK(json.at("total").at("weights") == 4'590'848);
  std::size_t changed = 0;
  double last = 1e9;
  for (const auto& tensor : json.at("tensors")) {
    changed += tensor.at("exact") == false ? 1 : 0;
    CHECK(tensor.at("error").at("nmse").get<double>() <= last);
    last = tensor.at("error").at("nmse");
  }
  CHECK(changed == 42);
  CHECK(report.at("layers").size() == 42);
  const Outcome text = run_quant({"compare", example_model(), output, "--top", "3"});
  CHECK(contains(text.out, "39 more"));
  CHECK(contains(text.out, "int4 sym group 128"));
}

TEST_CASE("compare's exit code follows what was asked", "[compare]") {
  const std::string output = quantized_example().string();
  CHECK(run_quant({"compare", example_model(), output}).code == 0);
  CHECK(run_quant({"compare", example_model(), output, "--expect-equal"}).code == 1);
  CHECK(run_quant({"compare", output, output, "--expect-equal"}).code == 0);
  CHECK(run_quant({"compare", example_model(), output, "--fail-above-nmse", "1"}).code == 0);
  CHECK(run_quant({"compare", example_model(), output, "--fail-above-nmse", "1e-9"}).code == 1);
  CHECK(run_quant({"compare", example_model(), output, "--fail-above-nmse", "-1"}).code == 2);
  CHECK(run_quant({"compare", example_model(), output, "--sort", "colour"}).code == 2);
  CHECK(contains(run_quant({"compare", output, output}).out, "equal"));
}

TEST_CASE("dequantize writes values that compare as equal", "[dequantize]") {
  TempDir dir;
  const std::string output = quantized_example().string();
  const std::string plain = (dir / "plain").string();
  const auto made = json_of(run_quant({"dequantize", output, "--output", plain, "--dtype", "F32", "--json"}));
  CHECK(made.at("linears") == 42);
  CHECK(made.at("bytes_after") == 4 * 4'590'848);
  CHECK(run_quant({"compare", output, plain, "--expect-equal"}).code == 0);
  const auto config = nlohmann::json::parse(read_file(dir / "plain" / "config.json"));
  CHECK_FALSE(config.contains("quantization_config"));
  CHECK(config.at("torch_dtype") == "float32");
  CHECK(read_file(dir / "plain" / "tokenizer.json") == read_file(fs::path(example_model()) / "tokenizer.json"));
  CHECK_FALSE(fs::exists(dir / "plain" / "report.json"));
  CHECK(run_quant({"verify", plain}).code == 0);
  // Not onto something that is there.
  CHECK(run_quant({"dequantize", output, "--output", plain}).code == 6);
  // In shards, and in the source's type.
  const std::string sharded = (dir / "sharded").string();
  CHECK(run_quant({"dequantize", output, "--output", sharded, "--shard-size", "3M"}).code == 0);
  CHECK(fs::exists(dir / "sharded" / "model.safetensors.index.json"));
  const auto inspected = json_of(run_quant({"inspect", sharded, "--json"}));
  CHECK(inspected.at("files").size() >= 3);
  CHECK(inspected.at("bytes") == 2 * 4'590'848);
  CHECK(run_quant({"verify", sharded}).code == 0);
}

TEST_CASE("verify accepts what run wrote and the example itself", "[verify]") {
  const auto json = json_of(run_quant({"verify", quantized_example().string(), "--json"}));
  INFO(json.dump(2));
  CHECK(json.at("ok") == true);
  CHECK(json.at("errors") == 0);
  CHECK(json.at("linears") == 42);
  CHECK(json.at("report") == true);
  CHECK(json.at("scales").get<std::uint64_t>() > 0);
  CHECK(run_quant({"verify", quantized_example().string(), "--strict"}).code == 0);
  CHECK(run_quant({"verify", example_model()}).code == 0);
}

TEST_CASE("verify finds what was broken", "[verify]") {
  TempDir dir;
  const fs::path broken = dir / "broken";
  copy_folder(quantized_example(), broken);
  auto config = nlohmann::json::parse(read_file(broken / "config.json"));

  auto changed = config;
  changed["quantization_config"]["ignore"].push_back("model.layers.0.mlp.up_proj");
  write_file(broken / "config.json", changed.dump());
  Outcome outcome = run_quant({"verify", broken.string(), "--json"});
  CHECK(outcome.code == 1);
  CHECK(has_check(json_of(outcome), "quantized_but_ignored"));

  changed = config;
  changed.erase("quantization_config");
  write_file(broken / "config.json", changed.dump());
  CHECK(has_check(json_of(run_quant({"verify", broken.string(), "--json"})), "quantization_config_missing"));

  write_file(broken / "config.json", config.dump());
  auto report = nlohmann::json::parse(read_file(broken / "report.json"));
  report["layers"].erase(0);
  write_file(broken / "report.json", report.dump());
  outcome = run_quant({"verify", broken.string()});
  CHECK(outcome.code == 1);
  CHECK(contains(outcome.out, "[report_missing_layer]"));

  fs::remove(broken / "report.json");
  CHECK(run_quant({"verify", broken.string()}).code == 0);
  CHECK(run_quant({"verify", broken.string(), "--strict"}).code == 1);

  fs::resize_file(broken / "model.safetensors", fs::file_size(broken / "model.safetensors") - 8);
  outcome = run_quant({"verify", broken.string(), "--json"});
  CHECK(outcome.code == 1);
  CHECK(json_of(outcome).at("errors") == 1);
}
