#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

constexpr const char* kOddTarget = R"(default_stage:
  default_modifiers:
    QuantizationModifier:
      targets: [Linear]
      scheme: W4A16
      ignore: [lm_head, no_such_module]
)";

}  // namespace

TEST_CASE("plan states what would be done", "[plan]") {
  const auto json = json_of(run_quant({"plan", "w4a16", "--model", example_model(), "--json"}));
  CHECK(json.at("linears").size() == 42);
  CHECK(json.at("problems").empty());
  CHECK(json.at("bytes_before") == 2 * 4'590'848);
  CHECK(json.at("bytes_after").get<double>() < json.at("bytes_before").get<double>());
  CHECK(json.at("bits_per_weight").get<double>() == Approx(4.125).margin(0.1));
  CHECK(json.at("peak_memory").get<std::uint64_t>() > 0);
  for (const auto& linear : json.at("linears")) {
    CHECK_FALSE(linear.at("rule").get<std::string>().empty());
    CHECK(linear.at("scheme") == "int4 sym group 128");
  }
  for (const auto& skipped : json.at("skipped")) CHECK_FALSE(skipped.at("reason").get<std::string>().empty());
}

TEST_CASE("the plan's text has every linear, and every copy with --all", "[plan]") {
  const Outcome text = run_quant({"plan", "w4a16", "--model", example_model()});
  CHECK(text.code == 0);
  CHECK(contains(text.out, "model.layers.0.mlp.down_proj"));
  CHECK(contains(text.out, "peak memory"));
  CHECK_FALSE(contains(text.out, "model.layers.3.input_layernorm.weight"));
  const Outcome all = run_quant({"plan", "w4a16", "--model", example_model(), "--all"});
  CHECK(contains(all.out, "model.layers.3.input_layernorm.weight"));
}

TEST_CASE("recipes may be files, and warnings are errors with --strict", "[plan]") {
  TempDir dir;
  write_file(dir / "odd.yaml", kOddTarget);
  const std::vector<std::string> arguments{"plan", (dir / "odd.yaml").string(), "--model", example_model()};
  const Outcome warned = run_quant(arguments);
  CHECK(warned.code == 0);
  CHECK(contains(warned.err, "warning: "));
  CHECK(contains(warned.err, "no_such_module"));
  auto strict = arguments;
  strict.push_back("--strict");
  strict.push_back("--json");
  const Outcome refused = run_quant(strict);
  CHECK(refused.code == 3);
  CHECK(json_of(refused).at("problems").size() == 1);
  const Outcome run = run_quant({"run", (dir / "odd.yaml").string(), "--model", example_model(), "--output",
                                 (dir / "out").string(), "--strict", "--json"});
  CHECK(run.code == 3);
  CHECK(json_of(run).at("error").at("kind") == "PlanProblems");
  CHECK_FALSE(std::filesystem::exists(dir / "out"));
}

TEST_CASE("a plan with problems shows no sizes, unless they are known", "[plan]") {
  TempDir dir;
  write_file(dir / "ragged.yaml",
             "s_stage:\n  m_modifiers:\n    QuantizationModifier:\n      config_groups:\n        g:\n          "
             "targets: [Linear]\n"
             "          weights: {num_bits: 4, strategy: group, group_size: 100}\n");
  const Outcome refused = run_quant({"plan", (dir / "ragged.yaml").string(), "--model", example_model()});
  CHECK(refused.code == 3);
  CHECK(contains(refused.err, "problem: "));
  CHECK(contains(refused.out, "model.layers.0.mlp.down_proj"));
  for (const char* part : {"bits per weight", "bits/weight", "peak memory", "0 files", "0.000"}) {
    CAPTURE(part);
    CHECK_FALSE(contains(refused.out, part));
  }
  // Too little memory is found last: by then everything has a size, and the need is what the user wants to see.
  const Outcome small = run_quant({"plan", "w4a16", "--model", example_model(), "--memory", "1KiB"});
  CHECK(small.code == 3);
  CHECK(contains(small.out, "peak memory"));
}

TEST_CASE("schemes that one layout cannot hold together are a problem of it, or take another", "[plan]") {
  const TempDir dir;
  write_file(dir / "two.yaml", R"(s_stage:
  m_modifiers:
    CodebookModifier:
      ignore: [lm_head]
      config_groups:
        a: {targets: ['re:.*q_proj'], weights: {type: codebook, num_bits: 4, codebook: nf4, strategy: flat, group_size: 64}}
        b: {targets: ['re:.*k_proj'], weights: {type: codebook, num_bits: 4, codebook: fp4, strategy: flat, group_size: 64}}
)");
  const Arguments plan{"plan", (dir / "two.yaml").string(), "--model", example_model(), "--json"};
  const auto refused = json_of(run_quant(with(plan, {"--layout", "bitsandbytes"})));
  REQUIRE(refused.at("problems").size() == 1);
  CHECK(contains(refused.at("problems")[0], "a is nf4 and b is fp4"));
  const Outcome automatic = run_quant(plan);
  CHECK(automatic.code == 0);
  CHECK(json_of(automatic).at("layout") == "libquant");
}

TEST_CASE("an unknown layout or instruction set is wrong usage, with what there is", "[plan]") {
  const Arguments plan{"plan", "w4a16", "--model", example_model()};
  const Outcome layout = run_quant(with(plan, {"--layout", "libquan"}));
  CHECK(layout.code == 2);
  CHECK(contains(layout.err, "did you mean 'libquant'?"));
  CHECK(contains(layout.err, "auto, compressed-tensors"));
  const Outcome isa = run_quant(plan, {"QUANT_ISA=foo"});
  CHECK(isa.code == 2);
  CHECK(contains(isa.err, "use one of: scalar"));
}

TEST_CASE("recipes that cannot be found or read are told apart", "[plan]") {
  TempDir dir;
  const Outcome name = run_quant({"plan", "w4a61", "--model", example_model()});
  CHECK(name.code == 2);
  CHECK(contains(name.err, "did you mean 'w4a16'"));
  CHECK(run_quant({"plan", "missing.yaml", "--model", example_model()}).code == 6);
  CHECK(run_quant({"plan", dir.path().string(), "--model", example_model()}).code == 2);
  write_file(dir / "bad.yaml", "default_stage:\n  default_modifiers:\n    QuantizationModifer: {scheme: W4A16}\n");
  const Outcome bad = run_quant({"plan", (dir / "bad.yaml").string(), "--model", example_model()});
  CHECK(bad.code == 3);
  CHECK(contains(bad.err, "bad.yaml:3:"));
  CHECK(contains(bad.err, "QuantizationModifier"));
}

TEST_CASE("sizes and variables of a wrong form are usage errors", "[plan]") {
  for (const auto& extra : std::vector<std::vector<std::string>>{
           {"--memory", "lots"}, {"--shard-size", "0"}, {"--set", "novalue"}, {"--set", "=x"}}) {
    std::vector<std::string> arguments{"plan", "w4a16", "--model", example_model()};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    const Outcome outcome = run_quant(arguments);
    CHECK(outcome.code == 2);
    CHECK(contains(outcome.err, extra[0]));
  }
}

TEST_CASE("run needs a model and an output and says so", "[run]") {
  const Outcome model = run_quant({"run", "w4a16"});
  CHECK(model.code == 2);
  CHECK(contains(model.err, "examples/tiny-llama-novels"));
  const Outcome output = run_quant({"run", "w4a16", "--model", example_model()});
  CHECK(output.code == 2);
  CHECK(contains(output.err, "--output"));
  CHECK(run_quant({"run", "w4a16", "--model", example_model(), "--output", "x", "--resume", "--overwrite-partial"})
            .code == 2);
}

TEST_CASE("run writes what the plan promised and sums it up", "[run]") {
  TempDir dir;
  const std::string output = (dir / "out").string();
  const auto plan = json_of(run_quant({"plan", "w4a16", "--model", example_model(), "--json"}));
  const Outcome outcome = run_quant({"run", "w4a16", "--model", example_model(), "--output", output, "--json"});
  CHECK(outcome.code == 0);
  const auto json = json_of(outcome);
  CHECK(json.at("bytes_after") == plan.at("bytes_after"));
  CHECK(json.at("layers") == 42);
  CHECK(json.at("worst").size() == 5);
  CHECK(json.at("error").at("sqnr_db").get<double>() > 15.0);
  const double worst = json.at("worst").at(0).at("error").at("nmse");
  for (const auto& layer : json.at("worst")) CHECK(layer.at("error").at("nmse").get<double>() <= worst);
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json", "report.json", "report.html"}) {
    CHECK(std::filesystem::exists(dir / "out" / file));
  }
  CHECK_FALSE(std::filesystem::exists(dir / "out.partial"));
  // It exists now: nothing is overwritten.
  const Outcome again = run_quant({"run", "w4a16", "--model", example_model(), "--output", output});
  CHECK(again.code != 0);
  CHECK(contains(again.err, output));
}

TEST_CASE("run's text names size, error and report", "[run]") {
  TempDir dir;
  const std::vector<std::string> arguments{"run", "w4a16", "--model", example_model(), "--output"};
  auto loud = arguments;
  loud.push_back((dir / "a").string());
  const Outcome text = run_quant(loud);
  CHECK(text.code == 0);
  for (const char* part : {"SQNR", "worst layers", "report.html", "->"}) CHECK(contains(text.out, part));
  CHECK(text.err.empty());  // no progress where stderr is no terminal
  auto quiet = arguments;
  quiet.push_back((dir / "b").string());
  quiet.push_back("--quiet");
  CHECK(run_quant(quiet).out.empty());
  CHECK(read_file(dir / "a" / "model.safetensors") == read_file(dir / "b" / "model.safetensors"));
}

TEST_CASE("an interrupted run says how to go on, or was quick enough to finish", "[run]") {
  TempDir dir;
  const std::string output = (dir / "out").string();
  const std::string err = (dir / "err").string();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (freopen(err.c_str(), "w", stderr) == nullptr || freopen("/dev/null", "w", stdout) == nullptr) _exit(125);
    execl(QUANT_EXECUTABLE, "quant", "run", "w4a16", "--model", example_model().c_str(), "--output", output.c_str(),
          "--threads", "1", nullptr);
    _exit(126);
  }
  while (!std::filesystem::exists(output + ".partial") && !std::filesystem::exists(output) &&
         waitpid(child, nullptr, WNOHANG) == 0) {
    usleep(500);
  }
  kill(child, SIGINT);
  int status = 0;
  waitpid(child, &status, 0);
  if (std::filesystem::exists(output)) return;
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
  CHECK(contains(read_file(err), "--resume"));
  const Outcome resumed = run_quant({"run", "w4a16", "--model", example_model(), "--output", output, "--resume"});
  INFO(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(read_file(dir / "out" / "model.safetensors") == read_file(quantized_example() / "model.safetensors"));
}
