// Runs: the same bytes for any threads and files, nothing half done, reports.
#include <atomic>
#include <chrono>
#include <thread>

#include "quant/error.h"
#include "quant/report.h"
#include "structured/pruned.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

struct Compensated : Pruning {
  explicit Compensated(const std::string& name) : Pruning(name) {
    give_data();
    options.heads = {0.5};
    options.ffn = {0.25};
    options.importance = UnitImportance::flap;
    options.compensation = Compensation::least_squares;
  }
};

}  // namespace

TEST_CASE("threads change no byte of model and structure") {
  for (const char* name : {"llama_tied_biases", "mixtral_fused"}) {
    Compensated pruning(name);
    pruning.resources.threads = 1;
    pruning.run("one");
    pruning.resources.threads = 3;
    pruning.run("three");
    for (const char* file : {"model.safetensors", "structure.json", "config.json"}) {
      INFO(name << " " << file);
      CHECK(read_file(pruning.dir / "one" / file) == read_file(pruning.dir / "three" / file));
    }
  }
}

TEST_CASE("several files hold the same tensors as one") {
  Pruning pruning("llama");
  pruning.options.ffn = {0.25};
  pruning.run("one");
  pruning.resources.shard_bytes = 10000;
  pruning.run("many");
  const auto one = pruning.opened("one"), many = pruning.opened("many");
  CHECK(many->files().size() > 2);
  REQUIRE(one->tensors().size() == many->tensors().size());
  for (const TensorInfo& info : one->tensors()) {
    CHECK(stored_values<float>(*one, info.name) == stored_values<float>(*many, info.name));
  }
  CHECK(std::filesystem::exists(pruning.dir / "many" / "model.safetensors.index.json"));
}

TEST_CASE("16-bit weights are cut as bytes and fitted weights rounded to their type") {
  for (const DType type : {DType::F16, DType::BF16}) {
    Compensated pruning("llama");
    for (const std::string& name : [&] {
           std::vector<std::string> names;
           for (const TensorInfo& info : pruning.golden->checkpoint.tensors()) names.push_back(info.name);
           return names;
         }()) {
      const Shape shape = pruning.golden->checkpoint.find(name)->shape;
      std::vector<std::uint16_t> halves;
      for (const float value : golden_weights(name, shape)) {
        halves.push_back(type == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value));
      }
      pruning.golden->checkpoint.set_values(name, type, shape, halves);
    }
    pruning.run();
    const auto after = pruning.opened();
    for (const TensorInfo& info : after->tensors()) CHECK(info.dtype == type);
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
    const auto kept = structure.at("layers").at(0).at("ffn.intermediate_size").get<std::vector<std::size_t>>();
    const std::string up = "model.layers.0.mlp.up_proj.weight";
    const auto own = stored_values<std::uint16_t>(*after, up);
    const auto all = stored_values<std::uint16_t>(pruning.golden->checkpoint, up);
    for (std::size_t place = 0; place < kept.size(); ++place) {
      CHECK(std::equal(own.begin() + static_cast<std::ptrdiff_t>(32 * place),
                       own.begin() + static_cast<std::ptrdiff_t>(32 * (place + 1)),
                       all.begin() + static_cast<std::ptrdiff_t>(32 * kept[place])));
    }
    const auto logits = reference_outputs(*after, pruning.golden->ids);
    CHECK(std::isfinite(logits.front()));
  }
}

TEST_CASE("the report names what changed, with the error of fitted outputs") {
  Compensated pruning("llama");
  const RunReport report = pruning.run();
  const std::string file = (pruning.dir / "out" / "report.json").string();
  const RunReport read = report_from_json(read_file(file), file);
  CHECK(read.layout == "dense");
  CHECK(read.layers.size() == 10);  // keys and values stay as they are
  CHECK(read.bytes_after == report.bytes_after);
  std::size_t fitted = 0;
  for (const LayerReport& layer : read.layers) {
    INFO(layer.module);
    CHECK(layer.bytes_after <= layer.bytes_before);
    if (!layer.calibration) continue;
    ++fitted;
    REQUIRE(layer.calibration->output);
    CHECK(layer.calibration->tokens == 288);
    CHECK(layer.calibration->output->noise < layer.calibration->output->signal);
  }
  CHECK(fitted == 4);
  REQUIRE(read.calibration);
  CHECK(read.calibration->blocks.size() == 2);
  CHECK(read_file(pruning.dir / "out" / "report.html").find("down_proj") != std::string::npos);
  CHECK(report.peak_memory_measured > 0);
}

TEST_CASE("a stop or a failure leaves nothing, and what is there already is not touched") {
  Compensated pruning("llama");
  const StructuredPlan plan = pruning.plan();
  REQUIRE(plan.problems.empty());
  std::atomic<bool> stop{true};
  RunOptions options;
  options.output = pruning.dir / "out";
  options.stop = &stop;
  const auto code_of = [&] {
    try {
      run_structured(plan, options);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::internal;
  };
  CHECK(code_of() == ErrorCode::interrupted);
  CHECK_FALSE(std::filesystem::exists(options.output));
  CHECK_FALSE(std::filesystem::exists(pruning.dir / "out.partial"));
  // Within the second pass.
  stop = false;
  options.progress = [&](const RunProgress& progress) {
    stop = stop || progress.operations_done > 5;
    std::this_thread::sleep_for(std::chrono::milliseconds(101));  // so that the next call comes through
  };
  CHECK(code_of() == ErrorCode::interrupted);
  CHECK_FALSE(std::filesystem::exists(options.output));
  CHECK_FALSE(std::filesystem::exists(pruning.dir / "out.partial"));
  options.progress = nullptr;
  stop = false;
  // What a killed run left is refused, or begun again.
  std::filesystem::create_directories(pruning.dir / "out.partial");
  write_file(pruning.dir / "out.partial" / "model.safetensors", "half");
  CHECK(code_of() == ErrorCode::io);
  CHECK(read_file(pruning.dir / "out.partial" / "model.safetensors") == "half");
  options.resume = true;
  run_structured(plan, options);
  CHECK(std::filesystem::exists(options.output / "report.json"));
  CHECK(code_of() == ErrorCode::io);  // the output is there
  CHECK(std::filesystem::exists(options.output / "report.json"));
}

TEST_CASE("weights that are no numbers are named, and no output is left") {
  Compensated pruning("llama");
  const Axes found(pruning.golden->checkpoint);
  const auto& down = std::get<LinearOp>(found.program.blocks[1].ops[found.axes.blocks[1].ffn.front().reader]);
  WeightEditor(pruning.golden->checkpoint, down.weights.front()).set(3, 4, std::numeric_limits<float>::quiet_NaN());
  try {
    pruning.run();
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::numerical);
    CHECK(std::string(error.what()).find("model.layers.1") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(pruning.dir / "out"));
  CHECK_FALSE(std::filesystem::exists(pruning.dir / "out.partial"));
}

TEST_CASE("a copy of the structure goes where the recipe says") {
  Pruning pruning("qwen3_moe");
  pruning.give_data();
  pruning.options.experts = {0.25};
  pruning.options.expert_importance = ExpertImportance::router;
  pruning.options.report_path = pruning.dir / "kept.json";
  pruning.run();
  CHECK(read_file(pruning.dir / "kept.json") == read_file(pruning.dir / "out" / "structure.json"));
}
