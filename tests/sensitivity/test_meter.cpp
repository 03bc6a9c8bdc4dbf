// Measured losses against evaluations of checkpoints that were really written, and against float64.
#include <cmath>

#include "quant/error.h"
#include "quant/evaluate.h"
#include "sensitivity/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::string kLinears =
    "model.layers.0.self_attn.q_proj, model.layers.3.mlp.down_proj, model.layers.5.mlp.gate_proj";

SensitivityOptions options_for(SensitivityMeasure measure, const std::string& candidates, int threads = 2) {
  SensitivityOptions options;
  options.measure = measure;
  options.candidates = parse_candidates(candidates);
  options.threads = threads;
  return options;
}

SensitivityReport measured(const Plan& plan, const TokenSequences& data, const SensitivityOptions& options) {
  return SensitivityMeter(plan, data, options).measure();
}

struct Opened {
  explicit Opened(const std::string& path)
      : checkpoint(open_checkpoint(path)),
        tensors(*checkpoint, full_registry()),
        weights(tensors),
        model(weights, {}) {}
  std::unique_ptr<Checkpoint> checkpoint;
  LogicalTensors tensors;
  ModelWeights weights;
  LanguageModel model;
};

/// KL divergence of the example model with one linear quantized, from its packed checkpoint.
Estimate packed_divergence(const std::string& module, int bits, int group, const TokenSequences& data) {
  const TempDir dir;
  const ExamplePlan example_plan(recipe_text(module, bits, group));
  RunOptions run;
  run.output = dir / "out";
  run_plan(example_plan.plan, run);
  Opened quantized((dir / "out").string());
  Opened base(example());
  return evaluate_perplexity(quantized.model, &base.model, data.sequences, {}).base->divergence.mean;
}

bool same_losses(const SensitivityReport& a, const SensitivityReport& b) {
  if (a.linears.size() != b.linears.size()) return false;
  for (std::size_t i = 0; i < a.linears.size(); ++i) {
    for (std::size_t c = 0; c < a.candidates.size(); ++c) {
      const CandidateLoss& x = a.linears[i].losses[c];
      const CandidateLoss& y = b.linears[i].losses[c];
      if (x.loss != y.loss || x.error != y.error || x.output_nmse != y.output_nmse || x.weight_nmse != y.weight_nmse) {
        return false;
      }
    }
  }
  return true;
}

std::vector<double> read_doubles(const Opened& opened, const std::string& name) {
  const LogicalTensor* tensor = opened.tensors.find(name);
  REQUIRE(tensor != nullptr);
  std::vector<float> values(tensor->count());
  opened.tensors.read_rows(*tensor, 0, tensor->rows, values);
  return {values.begin(), values.end()};
}

/// w rounded to symmetric integers of `bits` in groups: absmax / (qmax + 1/2) as FP16, ties to even.
std::vector<double> rounded_naively(const std::vector<double>& w, int bits, std::size_t group) {
  const double most = (1 << (bits - 1)) - 1;
  std::vector<double> result(w.size());
  for (std::size_t g = 0; g < w.size(); g += group) {
    double absmax = 0;
    for (std::size_t i = g; i < g + group; ++i) absmax = std::max(absmax, std::abs(w[i]));
    const double scale = f16_to_f32(f32_to_f16(static_cast<float>(absmax / (most + 0.5))));
    for (std::size_t i = g; i < g + group; ++i) {
      result[i] = scale * std::clamp(std::nearbyint(w[i] / scale), -most - 1, most);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("a linear's divergence is that of a checkpoint in which it alone is quantized") {
  const TokenSequences data = some_tokens(3, 48);
  const ExamplePlan base(recipe_text(kLinears, 4, 128));
  const SensitivityReport report = measured(base.plan, data, options_for(SensitivityMeasure::kl, "W3G64,W2G32"));
  REQUIRE(report.linears.size() == 3);
  CHECK(report.tokens == 3 * 48);
  CHECK(report.sequences == 3);
  for (const LinearSensitivity& linear : report.linears) {
    const Estimate three = packed_divergence(linear.module, 3, 64, data);
    INFO(linear.module << " " << linear.losses[0].loss << " " << three.mean);
    CHECK(linear.losses[0].loss == Approx(three.mean).epsilon(1e-6));
    CHECK(linear.losses[0].error == Approx(three.error).epsilon(1e-4));
    CHECK(linear.losses[1].loss > linear.losses[0].loss);
    CHECK(linear.losses[0].weight_nmse > 0);
    CHECK(linear.losses[0].scheme == "int3 sym group 64");
  }
  // 3 bits in words of 32, an FP16 scale for 64 weights, and the shape in two int64 numbers.
  CHECK(report.linears[0].losses[0].bytes == 256 * 256 * 3 / 8 + 256 * 4 * 2 + 16);
}

TEST_CASE("output errors are those of a float64 computation") {
  const TokenSequences data = some_tokens(2, 24);
  const ExamplePlan base(recipe_text("model.layers.0.self_attn.q_proj", 4, 128));
  const SensitivityReport report = measured(base.plan, data, options_for(SensitivityMeasure::output, "W3G64,W8G32"));
  const Opened opened(example());
  const auto embeddings = read_doubles(opened, "model.embed_tokens.weight");
  const auto norm = read_doubles(opened, "model.layers.0.input_layernorm.weight");
  const auto weight = read_doubles(opened, "model.layers.0.self_attn.q_proj.weight");
  const std::size_t hidden = norm.size();
  for (const std::size_t c : {0U, 1U}) {
    const auto changed = rounded_naively(weight, c == 0 ? 3 : 8, c == 0 ? 64 : 32);
    double noise = 0, signal = 0;
    for (const auto& sequence : data.sequences) {
      for (const std::int32_t id : sequence) {
        std::vector<double> x(hidden);
        double squares = 0;
        for (std::size_t i = 0; i < hidden; ++i) {
          x[i] = embeddings[static_cast<std::size_t>(id) * hidden + i];
          squares += x[i] * x[i];
        }
        // The same factor on all of a token's inputs: epsilon matters, so it is the model's.
        const double factor = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
        for (std::size_t r = 0; r < weight.size() / hidden; ++r) {
          double exact = 0, difference = 0;
          for (std::size_t i = 0; i < hidden; ++i) {
            exact += x[i] * factor * norm[i] * weight[r * hidden + i];
            difference += x[i] * factor * norm[i] * (changed[r * hidden + i] - weight[r * hidden + i]);
          }
          noise += difference * difference;
          signal += exact * exact;
        }
      }
    }
    CHECK(report.linears[0].losses[c].output_nmse == Approx(noise / signal).epsilon(1e-4));
    CHECK(report.linears[0].losses[c].loss == report.linears[0].losses[c].output_nmse);
  }
}

TEST_CASE("losses have the same bits for any number of threads and any memory") {
  const TokenSequences data = some_tokens(3, 40);
  const ExamplePlan base(recipe_text(kLinears, 4, 128));
  const auto one = measured(base.plan, data, options_for(SensitivityMeasure::scaled, "W3G64,W4G32", 1));
  CHECK(same_losses(one, measured(base.plan, data, options_for(SensitivityMeasure::scaled, "W3G64,W4G32", 3))));
  SensitivityOptions tight = options_for(SensitivityMeasure::scaled, "W3G64,W4G32", 2);
  const std::uint64_t everything = SensitivityMeter(base.plan, data, tight).cost().bytes;
  tight.memory = everything * 7 / 10;
  SensitivityMeter meter(base.plan, data, tight);
  CHECK_FALSE(meter.cost().resident);
  CHECK(meter.cost().bytes <= tight.memory);
  CHECK(same_losses(one, meter.measure()));
  tight.memory = 1000;
  CHECK_THROWS_AS(SensitivityMeter(base.plan, data, tight), Error);
}

TEST_CASE("scaled losses are divergences at one candidate and follow output errors at the others") {
  const TokenSequences data = some_tokens(4, 64);
  const ExamplePlan base(recipe_text(kLinears, 4, 128));
  const auto kl = measured(base.plan, data, options_for(SensitivityMeasure::kl, "W3G64,W4G128,W8"));
  const auto scaled = measured(base.plan, data, options_for(SensitivityMeasure::scaled, "W3G64,W4G128,W8"));
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& losses = scaled.linears[i].losses;
    CHECK(losses[1].loss == kl.linears[i].losses[1].loss);
    CHECK(losses[0].loss == Approx(losses[1].loss * losses[0].output_nmse / losses[1].output_nmse));
    // The law behind it, roughly.
    CHECK(losses[0].loss > 0.6 * kl.linears[i].losses[0].loss);
    CHECK(losses[0].loss < 1.7 * kl.linears[i].losses[0].loss);
  }
}

TEST_CASE("schemes that a linear cannot have are left out, and refused if there is no other") {
  const TokenSequences data = some_tokens(1, 16);
  const ExamplePlan base(recipe_text("model.layers.0.self_attn.q_proj", 4, 128));
  // 256 columns are no multiple of 96.
  const auto report = measured(base.plan, data, options_for(SensitivityMeasure::output, "W4G96,W8"));
  CHECK_FALSE(report.linears[0].losses[0].possible);
  CHECK(report.linears[0].losses[1].possible);
  try {
    SensitivityMeter(base.plan, data, options_for(SensitivityMeasure::output, "W4G96"));
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("multiple of group_size 96") != std::string::npos);
  }
}

TEST_CASE("a measurement can be stopped, and says how far it is") {
  const TokenSequences data = some_tokens(2, 32);
  const ExamplePlan base(recipe_text(kLinears, 4, 128));
  std::atomic<bool> stop = false;
  SensitivityOptions options = options_for(SensitivityMeasure::kl, "W3G64,W8");
  double last = 0, total = 0;
  options.progress = [&](double done, double all, const std::string& module) {
    CHECK(done >= last);
    CHECK(module.starts_with("model.layers."));
    last = done;
    total = all;
  };
  options.stop = &stop;
  SensitivityMeter meter(base.plan, data, options);
  CHECK(meter.cost().measurements == 6);
  CHECK(meter.cost().linears == 3);
  meter.measure();
  CHECK(last > 0);
  CHECK(total == meter.cost().operations);
  CHECK(last <= total);
  stop = true;
  try {
    meter.measure();
    FAIL("went on");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::interrupted);
  }
}
