// quant convert as users type it.
#include <nlohmann/json.hpp>

#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"
#include "support/tiny_model.h"

using namespace quant::test;

namespace {

/// A tiny model of 4-bit weights in groups of 32, as GPTQ.
void write_gptq(const TempDir& dir) {
  write_tiny_model(dir / "model");
  write_file(dir / "r.yaml",
             "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n"
             "      config_groups:\n        group_0:\n          targets: [Linear]\n"
             "          weights: {num_bits: 4, type: int, symmetric: true, strategy: group, group_size: 32}\n");
  REQUIRE(run_quant({"run", (dir / "r.yaml").string(), "--model", (dir / "model").string(), "--layout", "gptq",
                     "--output", (dir / "gptq").string(), "--quiet"})
              .code == 0);
}

}  // namespace

TEST_CASE("convert writes another layout and says that nothing was lost", "[convert]") {
  const TempDir dir;
  write_gptq(dir);
  const std::string from = (dir / "gptq").string(), out = (dir / "awq").string();
  const Outcome outcome = run_quant({"convert", from, out, "--to", "awq"});
  INFO(outcome.err);
  CHECK(outcome.code == 0);
  CHECK(has(outcome.out, "14: int4 sym group 32 -> int4 sym group 32 (gemm)"));
  CHECK(has(outcome.out, "moved, no weight changed"));
  CHECK(json_of(run_quant({"inspect", out, "--json"})).at("quantization").at("layout") == "awq");
  const auto json =
      json_of(run_quant({"convert", out, "--output", (dir / "ct").string(), "--to", "compressed-tensors", "--json"}));
  CHECK(json.at("exact") == true);
  CHECK(json.at("linears").size() == 14);
  CHECK(json.at("linears")[0].at("format") == "pack-quantized");
  CHECK(run_quant({"compare", from, (dir / "ct").string()}).code == 0);
}

TEST_CASE("convert refuses what has no exact place, and --requantize names the price", "[convert]") {
  const TempDir dir;
  write_gptq(dir);
  const std::string from = (dir / "gptq").string(), out = (dir / "out").string();
  const Outcome refused = run_quant({"convert", from, out, "--to", "bitsandbytes"});
  CHECK(refused.code != 0);
  CHECK(has(refused.err, "14 of 14 linears have no exact place in bitsandbytes"));
  CHECK_FALSE(std::filesystem::exists(out));
  const auto json =
      json_of(run_quant({"convert", from, out, "--to", "gptq", "--requantize", "--scheme", "W8A16", "--json"}));
  CHECK(json.at("exact") == true);  // what can be moved is moved, whatever --scheme says
}

TEST_CASE("mistakes of convert are usage errors in a sentence", "[convert]") {
  const TempDir dir;
  write_gptq(dir);
  const std::string from = (dir / "gptq").string(), out = (dir / "out").string();
  const std::vector<std::pair<std::vector<std::string>, std::string>> mistakes = {
      {{"convert", from, out, "--to", "gptx"}, "there is no format 'gptx'"},
      {{"convert", from}, "no output is given"},
      {{"convert", from, out, "--output", out}, "given twice"},
      {{"convert", from, out, "--to", "hdf5", "--container", "safetensors"}, "contradict"},
      {{"convert", from, out, "--to", "awq", "--container", "hdf5"}, "writes safetensors"},
      {{"convert", from, out, "--requantize"}, "--requantize does nothing without --to"},
      {{"convert", from, out, "--to", "awq", "--type", "Q4_K"}, "--type does nothing with --to awq"},
      {{"convert", from, out, "--to", "gguf", "--weights-only"}, "--weights-only does nothing with --to gguf"},
      {{"convert", from, out, "--to", "imatrix", "--requantize"}, "--requantize does nothing with --to imatrix"},
      {{"convert", from, out, "--to", "gguf", "--type", "IQ1_S"}, "is no block type of GGUF that can be made"},
      {{"convert", from, out, "--to", "awq", "--scheme", "W4A16"}, "--scheme needs --requantize"},
      {{"convert", from, out, "--to", "awq", "--requantize", "--scheme", "X"}, "no preset X"},
      {{"convert", (dir / "model").string(), out, "--to", "awq"}, "is not quantized"}};
  for (const auto& [arguments, part] : mistakes) {
    const Outcome outcome = run_quant(arguments);
    INFO(part << ": " << outcome.err);
    CHECK(outcome.code == 2);
    CHECK(has(outcome.err, part));
    CHECK_FALSE(std::filesystem::exists(out));
    CHECK_FALSE(std::filesystem::exists(out + ".partial"));
  }
}

TEST_CASE("convert without a layout copies into HDF5, and back", "[convert]") {
  const TempDir dir;
  write_gptq(dir);
  const std::string from = (dir / "gptq").string();
  CHECK(run_quant({"convert", from, "--output", (dir / "h5").string()}).code == 0);
  CHECK(std::filesystem::exists(dir / "h5" / "model.h5"));
  CHECK(run_quant({"convert", (dir / "h5").string(), (dir / "st").string(), "--to", "safetensors"}).code == 0);
  CHECK(read_file(dir / "st" / "model.safetensors") == read_file(dir / "gptq" / "model.safetensors"));
  CHECK(run_quant({"convert", (dir / "h5").string(), (dir / "awq").string(), "--to", "awq"}).code == 0);
}
