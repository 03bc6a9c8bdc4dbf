// quant plan and quant run for recipes that change shapes.
#include "cli/run_quant.h"
#include "quant/open.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

std::string recipe(const std::string& fields) {
  return "s_stage:\n  s_modifiers:\n    StructuredPruningModifier: {" + fields + "}\n";
}

}  // namespace

TEST_CASE("plan shows axes, shapes and sizes") {
  TempDir dir;
  write_file(dir / "r.yaml", recipe("heads: 0.25, ffn: 0.25, layers: 1"));
  const Arguments plan = {"plan", dir / "r.yaml", "--model", example_model()};
  const auto json = json_of(run_quant(with(plan, {"--json"})));
  CHECK(json.at("axes").size() == 4);
  CHECK(json.at("parameters_before") == 4590848);
  CHECK(json.at("parameters_after") == 3263232);
  CHECK(json.at("problems").empty());
  const Outcome text = run_quant(plan);
  CHECK(text.code == 0);
  CHECK(text.out.find("num_hidden_layers") != std::string::npos);
  CHECK(text.out.find("[512, 256]  [384, 256]") != std::string::npos);
  CHECK(text.out.find("a run that is stopped begins again") != std::string::npos);
}

TEST_CASE("run writes a model that quant evaluates, verifies and quantizes") {
  TempDir dir;
  write_file(dir / "r.yaml", recipe("heads: 0.25, ffn: 0.25, layers: 1"));
  const std::string output = dir / "out";
  const auto json =
      json_of(quietly({"run", dir / "r.yaml", "--model", example_model(), "--output", output, "--eval",
                       example_model() + "/evaluation.txt", "--eval-seq-len", "128", "--eval-windows", "4", "--json"}));
  CHECK(json.at("parameters_after") == 3263232);
  CHECK(json.at("evaluation").at("perplexity").at("model").at("perplexity").at("mean").get<double>() > 0);
  CHECK(read_file(dir / "out/recipe.yaml").find("StructuredPruningModifier") != std::string::npos);
  CHECK(report_of(output).at("run").contains("seconds"));
  const auto model = open_checkpoint(output);
  CHECK(model->find("model.layers.5.mlp.up_proj.weight") == nullptr);
  CHECK(model->find("model.layers.4.mlp.up_proj.weight")->shape == Shape{384, 256});
  const Outcome quantized = quietly({"run", "fp8_dynamic", "--model", output, "--output", dir / "fp8", "--quiet"});
  CHECK(quantized.code == 0);
}

TEST_CASE("the ready recipes of pruning plan on the example model") {
  for (const char* name : {"prune_structured", "prune_structured_data_free"}) {
    INFO(name);
    const Outcome plan =
        run_quant({"plan", name, "--model", example_model(), "--calibration", example_model() + "/calibration.txt"});
    CHECK(plan.code == 0);
  }
  const Outcome reap =
      run_quant({"plan", "reap", "--model", example_model(), "--calibration", example_model() + "/calibration.txt"});
  CHECK(reap.code != 0);
  CHECK(reap.err.find("no mixture of experts") != std::string::npos);
}

TEST_CASE("wrong usage is said before anything is done") {
  TempDir dir;
  write_file(dir / "r.yaml", recipe("ffn: 0.25, compensate: true"));
  write_file(dir / "two.yaml", recipe("ffn: 0.25") + "    QuantizationModifier: {targets: [Linear], scheme: W4A16}\n");
  const auto said = [&](const Arguments& arguments, const std::string& what) {
    const Outcome outcome = run_quant(with(arguments, {"--output", dir / "out"}));
    INFO(outcome.err);
    CHECK(outcome.code != 0);
    CHECK(outcome.err.find(what) != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(dir / "out"));
  };
  const Arguments run = {"run", dir / "r.yaml", "--model", example_model()};
  said(run, "--calibration");
  said(with(run, {"--layout", "libquant"}), "--layout has no meaning");
  said(with(run, {"--block-errors"}), "--block-errors has no meaning");
  said({"run", dir / "two.yaml", "--model", example_model()}, "must stand alone");
  const Outcome plan = run_quant({"plan", dir / "r.yaml", "--model", example_model()});
  CHECK(plan.code != 0);
  CHECK(plan.err.find("problem: 'compensate' looks at what the model computes") != std::string::npos);
}
