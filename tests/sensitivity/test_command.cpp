// quant sensitivity and quant run --target-bits on the example model: what they promise, and wrong usage.
#include <fstream>
#include <map>

#include "cli/run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

/// Waiting threads sleep: other tests may want the processors.
std::string calibration_text() { return example_model() + "/calibration.txt"; }
std::string evaluation_text() { return example_model() + "/evaluation.txt"; }
/// Measured once for the whole program: 42 linears, 4 candidates.
struct Measured {
  Measured() {
    const Outcome made = quietly({"sensitivity", example_model(), "--calibration", calibration_text(), "--samples", "2",
                                  "--schemes", "W2G32,W3G128,W4G128,W8", "--output", (dir / "s.json").string(),
                                  "--target-bits", "3.125", "--write-recipe", (dir / "mixed.yaml").string(), "--json"});
    if (made.code != 0) throw std::runtime_error(made.err);
    json = json_of(made);
  }
  TempDir dir;
  nlohmann::json json;
};
const Measured& measured() {
  static const Measured once;
  return once;
}

std::vector<std::string> run_arguments(const fs::path& output) {
  return {"run", "w4a16", "--model", example_model(), "--output", output.string()};
}
Outcome run_mixed(const fs::path& output, std::vector<std::string> more) {
  auto arguments = run_arguments(output);
  arguments.insert(arguments.end(), more.begin(), more.end());
  return quietly(arguments);
}

double divergence_of(const fs::path& model) {
  const Outcome outcome = quietly({"eval", model.string(), "--base", example_model(), "--text", evaluation_text(),
                                   "--seq-len", "256", "--windows", "40", "--json"});
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  return json_of(outcome).at("perplexity").at("kl_divergence").at("mean");
}

/// The files that loading the output needs.
std::uint64_t size_of(const fs::path& model) {
  std::uint64_t bytes = 0;
  for (const char* name :
       {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
    bytes += fs::file_size(model / name);
  }
  return bytes;
}

/// The example model with one value of a tensor changed.
fs::path changed_model(const TempDir& dir, const std::string& tensor, std::uint16_t value) {
  const fs::path model = dir / "changed";
  fs::copy(example_model(), model);
  std::fstream file(model / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
  std::uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof size);
  std::string header(size, ' ');
  file.read(header.data(), static_cast<std::streamsize>(size));
  const std::uint64_t offset = nlohmann::json::parse(header).at(tensor).at("data_offsets").at(0);
  file.seekp(static_cast<std::streamoff>(8 + size + offset));
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
  return model;
}

constexpr const char* kSomeTensor = "model.layers.3.mlp.down_proj.weight";

/// The number that follows some words of a message.
std::uint64_t number_after(const std::string& text, const std::string& words) {
  const std::size_t at = text.find(words);
  return at == std::string::npos ? 0 : std::stoull(text.substr(at + words.size()));
}

}  // namespace

TEST_CASE("schemes shared out lose less than the uniform scheme of the same size") {
  const TempDir dir;
  const fs::path mixed = dir / "mixed";
  const fs::path uniform = dir / "uniform";
  const Outcome made =
      run_mixed(mixed, {"--target-bits", "3.126", "--sensitivity", (measured().dir / "s.json").string()});
  INFO(made.err);
  REQUIRE(made.code == 0);
  CHECK(has(made.err, "bits per weight"));
  write_file(dir / "w3.yaml",
             "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n"
             "      config_groups:\n        group_0:\n          targets: [Linear]\n"
             "          weights: {num_bits: 3, type: int, symmetric: true, strategy: group, group_size: 128, "
             "observer: mse_search}\n");
  REQUIRE(
      quietly({"run", (dir / "w3.yaml").string(), "--model", example_model(), "--output", uniform.string(), "--quiet"})
          .code == 0);
  CHECK(fs::file_size(mixed / "model.safetensors") <= fs::file_size(uniform / "model.safetensors"));
  const double mixed_loss = divergence_of(mixed);
  const double uniform_loss = divergence_of(uniform);
  INFO(mixed_loss << " against " << uniform_loss);
  CHECK(mixed_loss < 0.95 * uniform_loss);
}

TEST_CASE("the recipe beside the output makes the same checkpoint again") {
  const TempDir dir;
  const Outcome first = run_mixed(
      dir / "a", {"--target-bits", "3.125", "--sensitivity", (measured().dir / "s.json").string(), "--quiet"});
  INFO(first.err);
  REQUIRE(first.code == 0);
  for (const fs::path& recipe : {dir / "a" / "recipe.yaml", measured().dir / "mixed.yaml"}) {
    const fs::path output = dir / recipe.stem().string();
    const Outcome again =
        quietly({"run", recipe.string(), "--model", example_model(), "--output", output.string(), "--quiet"});
    INFO(again.err);
    REQUIRE(again.code == 0);
    for (const char* file : {"model.safetensors", "config.json", "recipe.yaml"}) {
      CHECK(read_file(output / file) == read_file(dir / "a" / file));
    }
  }
}

TEST_CASE("measuring within a run gives what measuring before it gives, and is kept with the output") {
  const TempDir dir;
  const Outcome outcome =
      run_mixed(dir / "out", {"--target-bits", "3.125", "--calibration", calibration_text(), "--sensitivity-samples",
                              "2", "--seq-len", "256", "--schemes", "W2G32,W3G128,W4G128,W8", "--threads", "1"});
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  CHECK(has(outcome.err, "168 measurements of 42 linears on 512 tokens"));
  auto kept = nlohmann::json::parse(read_file(dir / "out" / "sensitivity.json"));
  auto before = nlohmann::json::parse(read_file(measured().dir / "s.json"));
  kept.erase("seconds");
  before.erase("seconds");
  CHECK(kept == before);
  CHECK_FALSE(fs::exists(dir / "out.sensitivity.json"));
  CHECK(read_file(dir / "out" / "recipe.yaml") == read_file(measured().dir / "mixed.yaml"));
}

TEST_CASE("fused linears have one scheme, and budgets of bits and bytes hold") {
  const auto& schemes = measured().json.at("allocation").at("schemes");
  REQUIRE(schemes.size() == 42);
  for (int layer = 0; layer < 6; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    CHECK(schemes.at(prefix + "self_attn.q_proj") == schemes.at(prefix + "self_attn.k_proj"));
    CHECK(schemes.at(prefix + "self_attn.q_proj") == schemes.at(prefix + "self_attn.v_proj"));
    CHECK(schemes.at(prefix + "mlp.gate_proj") == schemes.at(prefix + "mlp.up_proj"));
  }
  CHECK(measured().json.at("allocation").at("bits_per_weight").get<double>() <= 3.125);
  const TempDir dir;
  const Outcome outcome = run_mixed(
      dir / "out", {"--target-size", "4.5MB", "--sensitivity", (measured().dir / "s.json").string(), "--quiet"});
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  const std::uint64_t size = size_of(dir / "out");
  CHECK(size <= 4'500'000);
  CHECK(size > 4'400'000);
}

TEST_CASE("wrong usage is refused with a way out") {
  const TempDir dir;
  const std::string report = (measured().dir / "s.json").string();
  const auto fails = [&](const std::vector<std::string>& more, int code) {
    const Outcome outcome = run_mixed(dir / "out", more);
    INFO(outcome.err);
    CHECK(outcome.code == code);
    CHECK_FALSE(fs::exists(dir / "out"));
    return outcome.err;
  };
  CHECK(has(fails({"--target-bits", "3.5"}, 2), "give --calibration FILE"));
  CHECK(has(fails({"--target-bits", "four", "--sensitivity", report}, 2), "'four' is no number of bits"));
  CHECK(has(fails({"--target-bits", "0", "--sensitivity", report}, 2), "from 0 to 16"));
  CHECK(has(fails({"--target-bits", "2", "--sensitivity", report}, 2), "the smallest candidates take 2.5"));
  const std::string smallest = fails({"--target-size", "3MB", "--sensitivity", report}, 2);
  CHECK(has(smallest, "--target-size 3.00 MB (3000000 bytes) is too small: the smallest output takes "));
  CHECK(has(fails({"--target-bits", "3", "--target-size", "3MB"}, 2), "--target"));
  CHECK(has(fails({"--sensitivity", report}, 2), "need a target"));
  CHECK(has(fails({"--sensitivity-samples", "3"}, 2), "need a target"));
  for (const Arguments& measuring : {Arguments{"--schemes", "W2"}, Arguments{"--measure", "kl"},
                                     Arguments{"--independent"}, Arguments{"--sensitivity-samples", "3"}}) {
    const Arguments target{"--target-bits", "3", "--sensitivity", report};
    CHECK(has(fails(with(target, measuring), 2), "has been measured"));
  }
  CHECK(has(fails({"--target-bits", "3", "--sensitivity", (dir / "none.json").string()}, 6), "none.json"));
  write_file(dir / "bad.json", "{}");
  CHECK(has(fails({"--target-bits", "3", "--sensitivity", (dir / "bad.json").string()}, 5), "format is missing"));
  CHECK(has(fails({"--target-bits", "3", "--schemes", "W4,Q4"}, 2), "unknown candidate scheme 'Q4'"));
  const Outcome recipe = quietly({"sensitivity", example_model(), "--calibration", calibration_text(), "--write-recipe",
                                  (dir / "r.yaml").string()});
  CHECK(recipe.code == 2);
  CHECK(has(recipe.err, "add --target-bits"));
  const Outcome bare = quietly({"sensitivity", example_model()});
  CHECK(bare.code == 2);
  CHECK(has(bare.err, "--calibration"));
}

TEST_CASE("the smallest size that a message names is met, and a byte less is not") {
  const TempDir dir;
  const std::string report = (measured().dir / "s.json").string();
  const auto with_size = [&](std::uint64_t bytes) {
    return run_mixed(dir / "out", {"--target-size", std::to_string(bytes), "--sensitivity", report, "--quiet"});
  };
  const std::uint64_t smallest = number_after(with_size(1'000'000).err, "the smallest output takes ");
  REQUIRE(smallest > 1'000'000);
  CHECK(with_size(smallest - 1).code == 2);
  const Outcome met = with_size(smallest);
  INFO(met.err);
  REQUIRE(met.code == 0);
  CHECK(size_of(dir / "out") == smallest);
}

TEST_CASE("a target that nothing can meet is refused before anything is measured") {
  const TempDir dir;
  for (const auto& target : {std::vector<std::string>{"--target-bits", "1"}, {"--target-size", "1MB"}}) {
    auto arguments = std::vector<std::string>{"sensitivity", example_model(), "--calibration", calibration_text()};
    arguments.insert(arguments.end(), target.begin(), target.end());
    for (const Outcome& outcome :
         {quietly(arguments), run_mixed(dir / "out", {target[0], target[1], "--calibration", calibration_text()})}) {
      INFO(outcome.err);
      CHECK(outcome.code == 2);
      CHECK(has(outcome.err, "the smallest"));
      CHECK_FALSE(has(outcome.err, "measurements"));
    }
  }
}

TEST_CASE("a report of a fine-tuned model is refused, and both models are named") {
  const TempDir dir;
  const fs::path other = changed_model(dir, kSomeTensor, 0x2000);
  const Outcome outcome = quietly({"run", "w4a16", "--model", other.string(), "--output", (dir / "out").string(),
                                   "--target-bits", "3.125", "--sensitivity", (measured().dir / "s.json").string()});
  INFO(outcome.err);
  CHECK(outcome.code == 2);
  CHECK(has(outcome.err, "of another model: it was measured on " + example_model()));
  CHECK(has(outcome.err, other.string()));
}

TEST_CASE("weights that are not finite are named by sensitivity and eval") {
  const TempDir dir;
  const fs::path broken = changed_model(dir, kSomeTensor, 0x7E00);
  const auto named = [](const Outcome& outcome) {
    INFO(outcome.err);
    CHECK(outcome.code == 7);
    CHECK(has(outcome.err, std::string(kSomeTensor) + " in "));
    CHECK(has(outcome.err, "has 1 value that is NaN or infinite (first at row 0, column 0: nan)"));
    CHECK(has(outcome.err, "repair the checkpoint"));
  };
  named(quietly({"sensitivity", broken.string(), "--calibration", calibration_text(), "--samples", "1"}));
  named(quietly({"eval", broken.string(), "--text", evaluation_text(), "--seq-len", "32", "--windows", "1"}));
  named(quietly({"eval", example_model(), "--base", broken.string(), "--text", evaluation_text(), "--seq-len", "32",
                 "--windows", "1"}));
}

TEST_CASE("folders of outputs are made, and help has one list of options") {
  const TempDir dir;
  const Outcome made =
      quietly({"sensitivity", example_model(), "--calibration", calibration_text(), "--samples", "1", "--seq-len", "16",
               "--measure", "output", "--schemes", "W4G128,W8", "--target-bits", "5", "--output",
               (dir / "a" / "b" / "s.json").string(), "--write-recipe", (dir / "c" / "r.yaml").string(), "--quiet"});
  INFO(made.err);
  CHECK(made.code == 0);
  CHECK(fs::exists(dir / "a" / "b" / "s.json"));
  CHECK(fs::exists(dir / "c" / "r.yaml"));
  const std::string help = quietly({"sensitivity", "--help"}).out;
  CHECK(has(help, "--target-bits"));
  CHECK_FALSE(has(help, "OPTIONS:"));
}
