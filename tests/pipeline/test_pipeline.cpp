#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <limits>

#include "fixture.h"
#include "quant/error.h"
#include "quant/pipeline.h"
#include "quant/rtn.h"
#include "support/catch.h"
#include "support/sanitized.h"

using namespace quant;
using quant::test::builtin_registry;
using quant::test::model_files;
using quant::test::read_file;
using quant::test::recipe_of;
using quant::test::TempDir;

namespace {

RunReport run(const std::filesystem::path& model, const std::filesystem::path& output, const std::string& fields,
              PlanOptions options = {}, RunOptions run_options = {}) {
  const auto checkpoint = open_checkpoint(model);
  const Plan plan = make_plan(*checkpoint, recipe_of(fields), builtin_registry(), options);
  REQUIRE(plan.problems.empty());
  run_options.output = output;
  return run_plan(plan, run_options);
}

std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  REQUIRE(info != nullptr);
  std::vector<float> values(element_count(info->shape));
  read_f32(checkpoint.view(*info), 0, values);
  return values;
}

}  // namespace

TEST_CASE("a run writes what quantizing each linear alone gives") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.hidden = 128, .intermediate = 256});
  const RunReport report = run(dir / "model", dir / "out", "{scheme: W4A16, ignore: [lm_head]}");
  const auto source = open_checkpoint(dir / "model");
  const auto output = open_checkpoint(dir / "out");
  const Layout& layout = *builtin_registry().layout("compressed-tensors");
  REQUIRE(layout.recognizes(output->config()));
  const auto linears = layout.find_linears(*output);
  REQUIRE(linears.size() == 14);
  REQUIRE(report.layers.size() == 14);
  for (const StoredLinear& linear : linears) {
    const TensorInfo* weight = source->find(linear.shape.module + ".weight");
    REQUIRE(weight != nullptr);
    QuantizedTensor stored;
    layout.read_rows(*output, linear, 0, linear.shape.rows, stored);
    const auto values = values_of(*source, weight->name);
    std::vector<float> row(linear.shape.cols);
    double noise = 0;
    for (std::uint64_t r = 0; r < linear.shape.rows; ++r) {
      dequantize_row(stored, r, row);
      for (std::uint64_t c = 0; c < linear.shape.cols; ++c)
        noise += std::pow(values[r * linear.shape.cols + c] - row[c], 2);
    }
    const auto layer = std::find_if(report.layers.begin(), report.layers.end(),
                                    [&](const LayerReport& l) { return l.module == linear.shape.module; });
    REQUIRE(layer != report.layers.end());
    CHECK(layer->sums.noise == Approx(noise).epsilon(1e-5));
    CHECK(layer->sums.count == linear.shape.rows * linear.shape.cols);
    CHECK(layer->row_nmse.size() == linear.shape.rows);
  }
  CHECK(values_of(*source, "model.embed_tokens.weight") == values_of(*output, "model.embed_tokens.weight"));
  CHECK(read_file(dir / "out" / "tokenizer.json") == read_file(dir / "model" / "tokenizer.json"));
  for (const char* name : {"config.json", "recipe.yaml", "report.json", "report.html", "report.h5"}) {
    CHECK(std::filesystem::exists(dir / "out" / name));
  }
  CHECK_FALSE(std::filesystem::exists(dir / "out.partial"));
}

TEST_CASE("the output does not depend on threads or memory") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.hidden = 128, .intermediate = 256});
  for (const char* scheme : {"W4A16", "W4A16_ASYM", "FP8_BLOCK", "NVFP4A16", "MXFP4A16"}) {
    const std::string fields = std::string("{scheme: ") + scheme + ", ignore: [lm_head]}";
    PlanOptions one;
    one.threads = 1;
    PlanOptions many;
    many.threads = 5;
    run(dir / "model", dir / (std::string(scheme) + "1"), fields, one);
    run(dir / "model", dir / (std::string(scheme) + "5"), fields, many);
    CHECK(model_files(dir / (std::string(scheme) + "1")) == model_files(dir / (std::string(scheme) + "5")));
  }
}

TEST_CASE("shards hold the same tensors as one file") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.layers = 4, .hidden = 128, .intermediate = 256});
  PlanOptions options;
  options.shard_bytes = 50'000;
  run(dir / "model", dir / "one", "{scheme: W8A16, ignore: [lm_head]}");
  run(dir / "model", dir / "many", "{scheme: W8A16, ignore: [lm_head]}", options);
  const auto one = open_checkpoint(dir / "one");
  const auto many = open_checkpoint(dir / "many");
  CHECK(many->files().size() > 2);
  REQUIRE(one->tensors().size() == many->tensors().size());
  for (const TensorInfo& tensor : one->tensors()) {
    const TensorInfo* other = many->find(tensor.name);
    REQUIRE(other != nullptr);
    const auto a = one->view(tensor).bytes;
    const auto b = many->view(*other).bytes;
    CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  }
}

TEST_CASE("fused NVFP4 linears are stored with one global scale") {
  TempDir dir;
  test::write_tiny_model(dir / "model");
  run(dir / "model", dir / "out", "{scheme: NVFP4A16, ignore: [lm_head]}");
  const auto output = open_checkpoint(dir / "out");
  const auto scale = [&](const std::string& name) {
    return values_of(*output, "model.layers.0." + name + ".weight_global_scale").at(0);
  };
  CHECK(scale("self_attn.q_proj") == scale("self_attn.k_proj"));
  CHECK(scale("self_attn.q_proj") == scale("self_attn.v_proj"));
  CHECK(scale("mlp.gate_proj") == scale("mlp.up_proj"));
  CHECK(scale("self_attn.o_proj") != scale("self_attn.q_proj"));
  // Neither scales nor this config.json tell what the weights were; the other tensors do.
  for (const StoredLinear& linear : builtin_registry().layout("compressed-tensors")->find_linears(*output)) {
    CHECK(linear.shape.dtype == DType::F16);
  }
}

TEST_CASE("a linear of zeros does not spoil the global scale of those it is fused with") {
  TempDir dir;
  test::write_tiny_model(dir / "model");
  {
    const auto checkpoint = open_checkpoint(dir / "model");
    const TensorInfo* q = checkpoint->find("model.layers.0.self_attn.q_proj.weight");
    std::fstream file(dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(q->offset));
    file << std::string(q->bytes, '\0');
  }
  const RunReport report = run(dir / "model", dir / "out", "{scheme: NVFP4A16, ignore: [lm_head]}");
  for (const LayerReport& layer : report.layers) {
    if (layer.module == "model.layers.0.self_attn.q_proj") {
      CHECK(layer.sums.noise == 0);
    } else {
      CHECK(layer.sums.noise < 0.02 * layer.sums.signal);
    }
  }
}

TEST_CASE("every bad weight is named, in all tensors at once") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.hidden = 128, .intermediate = 256, .dtype = DType::F32});
  {
    const auto checkpoint = open_checkpoint(dir / "model");
    std::fstream file(dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    const auto poke = [&](const std::string& name, std::uint64_t index, float value) {
      file.seekp(static_cast<std::streamoff>(checkpoint->find(name)->offset + 4 * index));
      file.write(reinterpret_cast<const char*>(&value), 4);
    };
    poke("model.layers.0.mlp.up_proj.weight", 128 * 5 + 7, std::numeric_limits<float>::quiet_NaN());
    poke("model.layers.1.mlp.down_proj.weight", 3, std::numeric_limits<float>::infinity());
  }
  for (const char* scheme : {"W8A16", "W8A8", "FP8_DYNAMIC", "NVFP4A16", "MXFP8A16"}) {
    try {
      run(dir / "model", dir / scheme, std::string("{scheme: ") + scheme + ", ignore: [lm_head]}");
      FAIL("no error for " << scheme);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::numerical);
      const std::string text = error.what();
      CHECK(text.find("model.layers.0.mlp.up_proj.weight") != std::string::npos);
      CHECK(text.find("row 5, column 7: nan") != std::string::npos);
      CHECK(text.find("model.layers.1.mlp.down_proj.weight") != std::string::npos);
      CHECK(text.find("row 0, column 3: inf") != std::string::npos);
      CHECK(text.find("has 1 weight that is NaN or infinite") != std::string::npos);
    }
    CHECK_FALSE(std::filesystem::exists(dir / scheme));
  }
}

TEST_CASE("sound linears that share a scale with a bad one are not blamed") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.dtype = DType::F32});
  {
    const auto checkpoint = open_checkpoint(dir / "model");
    std::fstream file(dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(checkpoint->find("model.layers.0.self_attn.v_proj.weight")->offset));
    const float nan = std::numeric_limits<float>::quiet_NaN();
    file.write(reinterpret_cast<const char*>(&nan), 4);
  }
  try {
    run(dir / "model", dir / "out", "{scheme: NVFP4A16, ignore: [lm_head]}");
    FAIL("no error");
  } catch (const Error& error) {
    const std::string text = error.what();
    CHECK(text.find("v_proj.weight") != std::string::npos);
    CHECK(text.find("q_proj") == std::string::npos);
    CHECK(text.find("k_proj") == std::string::npos);
  }
}

// Sanitizers keep shadow memory and freed blocks, which is no property of the program.
#ifndef QUANT_TEST_SANITIZED
TEST_CASE("the measured memory stays below the planned") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.layers = 1, .hidden = 1024, .intermediate = 2816, .dtype = DType::F32});
  PlanOptions options;
  options.threads = 2;
  options.layout = kAutomaticLayout;
  const std::string nf4 = "num_bits: 4, type: codebook, codebook: nf4, strategy: flat, group_size: 64";
  const std::string learned = "num_bits: 2, type: codebook, strategy: ";
  const auto modifier = [](const std::string& name, const std::string& weights) {
    return "default_stage:\n  default_modifiers:\n    " + name + ": {ignore: [lm_head], config_groups: {a: {" +
           "targets: [Linear], weights: {" + weights + "}}}}\n";
  };
  std::size_t number = 0;
  for (const std::string& text :
       {modifier("QuantizationModifier", "num_bits: 4, symmetric: false, strategy: group, group_size: 128"),
        modifier("CodebookModifier", nf4), modifier("CodebookModifier", nf4 + ", double_quant: true"),
        modifier("KMeansModifier", learned + "channel"), modifier("KMeansModifier", learned + "tensor"),
        modifier("KMeansModifier", learned + "tensor, outlier_percent: 0.5")}) {
    INFO(text);
    const auto checkpoint = open_checkpoint(dir / "model");
    const Plan plan =
        make_plan(*checkpoint, parse_recipe(text, "test.yaml", {}, builtin_registry()), builtin_registry(), options);
    RunOptions run_options;
    run_options.output = dir / ("out" + std::to_string(number++));
#if defined(__GLIBC__)
    malloc_trim(0);  // what tests before this one have freed is not the run's
#endif
    const RunReport report = run_plan(plan, run_options);
    // This program holds the tests besides.
    CHECK(report.peak_memory_measured < report.peak_memory_planned + (16U << 20U));
  }
}
#endif

TEST_CASE("an existing output is not touched") {
  TempDir dir;
  test::write_tiny_model(dir / "model");
  std::filesystem::create_directories(dir / "out");
  test::write_file(dir / "out" / "mine.txt", "mine");
  CHECK_THROWS_AS(run(dir / "model", dir / "out", "{scheme: W8A8}"), Error);
  CHECK(read_file(dir / "out" / "mine.txt") == "mine");
  CHECK_FALSE(std::filesystem::exists(dir / "out.partial"));
}

TEST_CASE("a full disk leaves no output and a partial directory that can be completed") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.layers = 4, .hidden = 128, .intermediate = 512});
  run(dir / "model", dir / "expected", "{scheme: W8A16, ignore: [lm_head]}");
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
  // Files may not grow past a quarter of the output: the system refuses as a full disk would.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = std::filesystem::file_size(dir / "expected" / "model.safetensors") / 4;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  try {
    run(dir / "model", dir / "out", "{scheme: W8A16, ignore: [lm_head]}");
    setrlimit(RLIMIT_FSIZE, &old);
    FAIL("no error");
  } catch (const Error& error) {
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(error.code() == ErrorCode::io);
    CHECK(std::string(error.what()).find("model.safetensors") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(dir / "out"));
  RunOptions resume;
  resume.resume = true;
  run(dir / "model", dir / "out", "{scheme: W8A16, ignore: [lm_head]}", {}, resume);
  CHECK(model_files(dir / "out") == model_files(dir / "expected"));
}

TEST_CASE("progress ends at the total") {
  TempDir dir;
  test::write_tiny_model(dir / "model");
  RunOptions options;
  RunProgress last;
  options.progress = [&](const RunProgress& progress) { last = progress; };
  run(dir / "model", dir / "out", "{scheme: W8A8}", {}, options);
  CHECK(last.bytes_total > 0);
  CHECK(last.bytes_done == last.bytes_total);
  CHECK(last.tensors_done == last.tensors_total);
}

TEST_CASE("a short last group is quantized, stored and read back by its own scale") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.hidden = 40, .intermediate = 100});
  run(dir / "model", dir / "out",
      "{config_groups: {a: {targets: [Linear], weights: {num_bits: 4, strategy: group, group_size: 48}}}, "
      "bypass_divisibility_checks: true}");
  const auto before = open_checkpoint(dir / "model");
  const auto after = open_checkpoint(dir / "out");
  const Layout& layout = *builtin_registry().layout("compressed-tensors");
  std::size_t compared = 0;
  for (const StoredLinear& linear : layout.find_linears(*after)) {
    QuantizedTensor tensor;
    layout.read_rows(*after, linear, 0, linear.shape.rows, tensor);
    const std::uint64_t groups = (linear.shape.cols + 47) / 48;
    REQUIRE(tensor.grid.cols == groups);
    const auto original = values_of(*before, linear.shape.module + ".weight");
    std::vector<float> row(linear.shape.cols);
    for (std::uint64_t r = 0; r < linear.shape.rows; ++r) {
      dequantize_row(tensor, r, row);
      for (std::uint64_t g = 0; g < groups; ++g) {
        const std::uint64_t end = std::min(linear.shape.cols, (g + 1) * 48);
        double absmax = 0;
        for (std::uint64_t c = g * 48; c < end; ++c) {
          absmax = std::max(absmax, std::abs(static_cast<double>(original[r * linear.shape.cols + c])));
        }
        // absmax / 7.5 up to the rounding of F16: the scale is of this group's values and no others.
        REQUIRE(tensor.scales[r * groups + g] == Approx(absmax / 7.5).epsilon(1.0 / 1024));
        for (std::uint64_t c = g * 48; c < end; ++c) {
          REQUIRE(std::abs(row[c] - original[r * linear.shape.cols + c]) <= absmax / 15 * 1.01);
        }
      }
    }
    ++compared;
  }
  CHECK(compared == 14);
}
