// Biases that make up for the mean of what pruning takes from outputs.
#include <atomic>
#include <cmath>
#include <numeric>

#include "../model/golden_model.h"
#include "../model/reference_forward.h"
#include "calibrated_fixture.h"
#include "pipeline/bias_correction.h"
#include "quant/error.h"
#include "quant/sparsify.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr std::uint64_t kSequences = 8, kLength = 20;

struct Biased {
  explicit Biased(const std::string& name) : golden(golden_model(name)) {
    write_ids(dir / "ids.npy", kSequences, kLength, 64);
    options.layout = std::string(kAutomaticLayout);
    options.threads = 2;
    options.calibration.file = dir / "ids.npy";
    options.calibration.data.seq_len = kLength;
    options.calibration.product = ProductType::f32;
  }
  Plan plan(const std::string& modifiers, const Registry& registry = builtin_registry()) const {
    const Recipe recipe = parse_recipe("s_stage:\n  s_modifiers:\n" + modifiers, "test.yaml", {}, registry);
    return make_plan(golden->checkpoint, recipe, registry, options);
  }
  RunReport run(const std::string& modifiers, const std::string& output) const {
    const Plan made = plan(modifiers);
    INFO((made.problems.empty() ? std::string() : made.problems.front()));
    REQUIRE(made.problems.empty());
    RunOptions run_options;
    run_options.output = dir / output;
    return run_plan(made, run_options);
  }

  std::unique_ptr<GoldenModel> golden;
  PlanOptions options;
  TempDir dir;
};

std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& tensor) {
  const LogicalTensors tensors(checkpoint, builtin_registry());
  const LogicalTensor* found = tensors.find(tensor);
  REQUIRE(found != nullptr);
  std::vector<float> out(found->count());
  tensors.read_rows(*found, 0, found->rows, out);
  return out;
}

/// In float64 what the linears of a finished model read: what calibration saw when it came to them.
std::map<std::string, std::vector<double>> inputs_of(const Checkpoint& finished, const Biased& model) {
  const LogicalTensors tensors(finished, builtin_registry());
  const ModelProgram program = build_model_program(tensors);
  CalibrationOptions data;
  data.seq_len = kLength;
  ReferenceForward forward(tensors);
  std::map<std::string, std::vector<double>> inputs;
  for (const auto& ids : read_sequences(model.dir / "ids.npy", nullptr, data).sequences) {
    std::vector<double> x = forward.run(program.embeddings, {}, ids);
    for (const Program& block : program.blocks) {
      for (std::size_t op = 0; op < block.ops.size(); ++op) {
        const auto* linear = std::get_if<LinearOp>(&block.ops[op]);
        if (linear == nullptr) continue;
        Program before = block;
        before.ops.resize(op);
        before.output = linear->in;
        const std::vector<double> rows = forward.run(before, x, ids);
        auto& all = inputs[linear->weights.front().module];
        all.insert(all.end(), rows.begin(), rows.end());
      }
      x = forward.run(block, x, ids);
    }
  }
  return inputs;
}

// E||W x + b - V x - c||^2 and E||W x||^2, per token.
struct Errors {
  double noise = 0, signal = 0;
};
Errors errors_of(const std::vector<float>& w, const std::vector<float>& v, const std::vector<float>& b,
                 const std::vector<float>& c, const std::vector<double>& inputs) {
  Errors sums;
  const std::size_t rows = b.size(), cols = w.size() / rows, tokens = inputs.size() / cols;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      double y = 0, d = static_cast<double>(b[r]) - c[r];
      for (std::size_t i = 0; i < cols; ++i) {
        y += w[r * cols + i] * inputs[t * cols + i];
        d += (static_cast<double>(w[r * cols + i]) - v[r * cols + i]) * inputs[t * cols + i];
      }
      sums.noise += d * d / static_cast<double>(tokens);
      sums.signal += y * y / static_cast<double>(tokens);
    }
  }
  return sums;
}

const LayerReport& layer_of(const RunReport& report, const std::string& module) {
  const auto found = std::find_if(report.layers.begin(), report.layers.end(),
                                  [&](const LayerReport& layer) { return layer.module == module; });
  REQUIRE(found != report.layers.end());
  return *found;
}

bool says(const std::vector<std::string>& texts, const std::string& part) {
  return std::any_of(texts.begin(), texts.end(),
                     [&](const std::string& text) { return text.find(part) != std::string::npos; });
}

std::string with_bias(const std::string& modifier, const std::string& more = "") {
  return "    " + modifier + ": {sparsity: 0.5, correct_bias: true" + more + "}\n";
}

// Removes every other column; may stop the run.
class HalfPruner final : public Sparsifier {
 public:
  static inline std::atomic<bool> stop{false};
  static inline std::atomic<int> calls_left{-1};

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.mean = true;
    return needs;
  }
  bool corrects_bias() const override { return true; }
  SparsityPattern pattern(const std::string& /*module*/) const override { return parse_pattern("1:2"); }
  std::optional<std::uint64_t> kept(const SparsityPattern&, std::uint64_t, std::uint64_t) const override {
    return std::nullopt;
  }
  void prune(std::span<PruneTask> group, const InputStatistics& /*inputs*/, const RunContext&) const override {
    for (PruneTask& task : group) {
      for (std::size_t i = 0; i < task.weight.size(); i += 2) task.weight[i] = 0, task.mask[i] = 0;
    }
    if (calls_left >= 0 && --calls_left < 0) stop = true;
  }
};

}  // namespace

TEST_CASE("a bias gets the mean of what its weight lost, which lowers the error of the outputs") {
  for (const std::string name : {"qwen2", "llama_tied_biases"}) {
    for (const std::string modifier : {"MagnitudePruningModifier", "WandaPruningModifier", "SparseGPTModifier"}) {
      INFO(name << " " << modifier);
      const Biased model(name);
      const RunReport report = model.run(with_bias(modifier), "out");
      const auto finished = open_checkpoint(model.dir / "out");
      std::size_t corrected = 0;
      for (const auto& [module, inputs] : inputs_of(*finished, model)) {
        INFO(module);
        const std::string bias = module + ".bias";
        if (model.golden->checkpoint.find(bias) == nullptr) continue;
        const auto w = values_of(model.golden->checkpoint, module + ".weight");
        const auto v = values_of(*finished, module + ".weight");
        const auto before = values_of(model.golden->checkpoint, bias), after = values_of(*finished, bias);
        const std::size_t cols = w.size() / before.size(), tokens = inputs.size() / cols;
        REQUIRE(tokens == kSequences * kLength);
        for (std::size_t r = 0; r < before.size(); ++r) {
          double expected = before[r];
          for (std::size_t t = 0; t < tokens; ++t) {
            for (std::size_t c = 0; c < cols; ++c) {
              expected += (static_cast<double>(w[r * cols + c]) - v[r * cols + c]) * inputs[t * cols + c] /
                          static_cast<double>(tokens);
            }
          }
          CHECK(after[r] == Approx(expected).margin(2e-6));
        }
        const Errors with = errors_of(w, v, before, after, inputs), without = errors_of(w, v, before, before, inputs);
        CHECK(with.noise < without.noise);
        const LayerReport& layer = layer_of(report, module);
        CHECK(says(layer.notes, "its bias makes up for the mean of the error"));
        REQUIRE(layer.calibration);
        CHECK(layer.calibration->output.has_value() == (modifier == "SparseGPTModifier"));
        if (layer.calibration->output) {
          CHECK(layer.calibration->output->noise == Approx(with.noise).epsilon(1e-4));
          CHECK(layer.calibration->output->signal == Approx(with.signal).epsilon(1e-4));
        }
        ++corrected;
      }
      CHECK(corrected == (name == "qwen2" ? 6 : 14));
    }
  }
}

TEST_CASE("the correction follows refit and quantization, and is of what is stored in the end") {
  const Biased model("qwen2");
  const RunReport report =
      model.run(with_bias("SparseGPTModifier", ", refit: exact") +
                    "    QuantizationModifier: {ignore: [lm_head], "
                    "config_groups: {g: {targets: ['re:.*_proj'], weights: {num_bits: 4, strategy: channel}}}}\n",
                "out");
  const auto finished = open_checkpoint(model.dir / "out");
  const auto inputs = inputs_of(*finished, model);
  for (const std::string leaf : {"q_proj", "k_proj", "v_proj"}) {
    const std::string module = "model.layers.1.self_attn." + leaf;
    INFO(module);
    const auto w = values_of(model.golden->checkpoint, module + ".weight");
    const auto v = values_of(*finished, module + ".weight");
    const auto before = values_of(model.golden->checkpoint, module + ".bias");
    const auto after = values_of(*finished, module + ".bias");
    const Errors with = errors_of(w, v, before, after, inputs.at(module));
    CHECK(with.noise < errors_of(w, v, before, before, inputs.at(module)).noise);
    REQUIRE(layer_of(report, module).calibration->output);
    CHECK(layer_of(report, module).calibration->output->noise == Approx(with.noise).epsilon(1e-4));
  }
}

TEST_CASE("threads change no bit of a corrected bias") {
  Biased model("llama_tied_biases");
  model.options.threads = 1;
  model.run(with_bias("SparseGPTModifier", ", refit: scale"), "one");
  model.options.threads = 3;
  model.run(with_bias("SparseGPTModifier", ", refit: scale"), "three");
  CHECK(model_files(model.dir / "one") == model_files(model.dir / "three"));
}

TEST_CASE("a run that was stopped while biases were corrected goes on to the same bytes") {
  Registry registry;
  register_builtin_algorithms(registry);
  register_builtin_formats(registry);
  AlgorithmEntry entry;
  entry.name = "half";
  entry.modifier = "HalfModifier";
  entry.create = [](const Parameters&) { return std::make_unique<HalfPruner>(); };
  registry.add(std::move(entry));
  const Biased model("llama_tied_biases");
  const Plan plan = model.plan("    HalfModifier: {}\n", registry);
  REQUIRE(plan.problems.empty());
  RunOptions options;
  options.output = model.dir / "whole";
  HalfPruner::calls_left = -1;
  HalfPruner::stop = false;
  run_plan(plan, options);
  options.output = model.dir / "stopped";
  options.stop = &HalfPruner::stop;
  HalfPruner::calls_left = 5;  // units of linears: the second block is at work
  CHECK_THROWS_AS(run_plan(plan, options), Error);
  CHECK_FALSE(std::filesystem::exists(options.output));
  HalfPruner::stop = false;
  HalfPruner::calls_left = -1;
  options.resume = true;
  run_plan(plan, options);
  CHECK(model_files(model.dir / "whole") == model_files(model.dir / "stopped"));
}

TEST_CASE("the plan says which biases change and how many linears have none") {
  const Biased model("qwen2");
  const Plan plan = model.plan(with_bias("WandaPruningModifier"));
  REQUIRE(plan.problems.empty());
  CHECK(says(plan.warnings, "correct_bias: 8 of 14 pruned linears have no bias"));
  const auto changed = std::count_if(plan.copies.begin(), plan.copies.end(), [](const PlannedCopy& copy) {
    return copy.reason.find("corrected when its weight is pruned") != std::string::npos;
  });
  CHECK(changed == 6);
  CHECK_FALSE(says(Biased("llama_tied_biases").plan(with_bias("WandaPruningModifier")).warnings, "correct_bias"));
  // Means of inputs are needed even where scores are not.
  Biased without("qwen2");
  without.options.calibration.file.clear();
  CHECK_FALSE(without.plan(with_bias("MagnitudePruningModifier")).problems.empty());
}

TEST_CASE("corrected biases are values of the stored type, and finite") {
  const std::vector<float> weight{3, 4, 1e30F, 1e30F, 2, 0}, values{3, 0, 0, 0, 0, 0}, mean{1, 0.5F};
  const std::vector<float> bias{0.1F, 65000, 7};
  const BiasCorrection corrected = correct_bias(bias, weight, values, mean, DType::F16, 2);
  CHECK(corrected.values[0] == round_to_dtype(DType::F16, 2.1F));
  CHECK(corrected.values[1] == 65504);
  CHECK(corrected.values[2] == 9);
  CHECK(corrected.output_mean[0] == 3);
  const std::vector<float> wild{std::numeric_limits<float>::infinity(), 1};
  const BiasCorrection kept = correct_bias(bias, weight, values, wild, DType::F32, 1);
  CHECK(kept.values[1] == bias[1]);
  CHECK(kept.note.find("keep theirs") != std::string::npos);
}
