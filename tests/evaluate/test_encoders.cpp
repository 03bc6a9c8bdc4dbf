// Models that predict no tokens: what needs predictions is refused, what needs a forward pass works.
#include <cmath>

#include "cli/run_quant.h"
#include "model/golden_model.h"
#include "quant/error.h"
#include "quant/language_model.h"
#include "sensitivity/support.h"
#include "support/catch.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::string kRecipe =
    "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n"
    "      ignore: [lm_head, pooler.dense, 're:cls.*']\n      config_groups:\n        group_0:\n"
    "          targets: [Linear]\n"
    "          weights: {num_bits: 4, type: int, symmetric: true, strategy: channel}\n";

Plan plan_of(const GoldenModel& model) {
  return make_plan(model.checkpoint, parse_recipe(kRecipe, "test.yaml", {}, full_registry()), full_registry(), {});
}

Error refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    INFO(error.what());
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK_FALSE(error.hint().empty());
    return error;
  }
  FAIL("no error");
  throw;
}

}  // namespace

TEST_CASE("perplexity of encoders and headless models is refused") {
  for (const auto& [name, kind, words] :
       {std::array<const char*, 3>{"bert", "NotCausal", "is an encoder (bert): it does not predict next tokens"},
        std::array<const char*, 3>{"bert_masked_lm", "NotCausal", "is an encoder (bert)"},
        std::array<const char*, 3>{"llama_headless", "NoHead", "has no language-model head"}}) {
    INFO(name);
    const auto model = golden_model(name);
    const LogicalTensors tensors(model->checkpoint, full_registry());
    const ModelWeights weights(tensors);
    const Error error = refusal([&] { const LanguageModel refused(weights, {}); });
    CHECK(error.kind() == kind);
    CHECK(has(error.what(), words));
  }
}

TEST_CASE("the sensitivity of encoders and headless models is measured by outputs alone") {
  for (const char* name : {"bert", "bert_masked_lm", "llama_headless"}) {
    INFO(name);
    const auto model = golden_model(name);
    const Plan plan = plan_of(*model);
    REQUIRE(plan.problems.empty());
    TokenSequences data;
    data.sequences = model->ids;
    SensitivityOptions options;
    options.candidates = parse_candidates("W8, W4");
    for (const auto measure : {SensitivityMeasure::kl, SensitivityMeasure::scaled}) {
      options.measure = measure;
      const Error error = refusal([&] { const SensitivityMeter refused(plan, data, options); });
      CHECK(error.kind() == "NoHead");
      CHECK(has(error.hint(), "--measure output"));
    }
    options.measure = SensitivityMeasure::output;
    const SensitivityReport report = SensitivityMeter(plan, data, options).measure();
    CHECK(report.linears.size() == (std::string(name) == "llama_headless" ? 14 : 12));
    for (const LinearSensitivity& linear : report.linears) {
      CHECK(linear.losses[0].loss > 0);
      CHECK(linear.losses[0].loss < linear.losses[1].loss);
    }
  }
}

TEST_CASE("the program refuses to evaluate an encoder, before it asks for a tokenizer") {
  const TempDir dir;
  const auto model = golden_model("bert");
  RunOptions run;
  run.output = dir / "bert-w4";
  run_plan(plan_of(*model), run);
  write_file(dir / "text.txt", "Some text.");
  for (const bool json : {false, true}) {
    std::vector<std::string> arguments{"eval", run.output.string(), "--text", (dir / "text.txt").string()};
    if (json) arguments.emplace_back("--json");
    const Outcome outcome = run_quant(arguments);
    INFO(outcome.err);
    CHECK(outcome.code == 4);
    CHECK(has(outcome.err, "is an encoder (bert): it does not predict next tokens"));
    CHECK(has(outcome.err, "causal language model"));
  }
}
