// quant run --eval: the figures of quant eval, in the report; nothing fails late.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"
#include "support/tiny_model.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

std::string evaluation_text() { return example_model() + "/evaluation.txt"; }

Arguments run_with(const std::string& recipe, const fs::path& output, const Arguments& more) {
  return with({"run", recipe, "--model", example_model(), "--output", output.string()}, more);
}

Arguments few_windows() { return {"--eval", evaluation_text(), "--eval-seq-len", "64", "--eval-windows", "4"}; }

/// The command must fail with this code and text, and leave nothing behind.
void check_refused(const Arguments& arguments, const fs::path& output, int code, const std::string& part) {
  const Outcome outcome = quietly(arguments);
  CAPTURE(part, outcome.err);
  CHECK(outcome.code == code);
  CHECK(has(outcome.err, part));
  CHECK_FALSE(fs::exists(output));
  CHECK_FALSE(fs::exists(output.string() + ".partial"));
}

}  // namespace

TEST_CASE("run --eval measures what eval measures, and the report says it", "[run]") {
  const TempDir dir;
  const fs::path output = dir / "out";
  Arguments arguments = run_with("w8a8", output, few_windows());
  arguments.emplace_back("--json");
  const Outcome run = quietly(arguments);
  INFO(run.err);
  REQUIRE(run.code == 0);
  const auto said = json_of(run).at("evaluation");
  const auto eval = json_of(quietly({"eval", output.string(), "--base", example_model(), "--text", evaluation_text(),
                                     "--seq-len", "64", "--windows", "4", "--json"}));
  CHECK(said.at("perplexity") == eval.at("perplexity"));
  CHECK(said.at("model") == eval.at("model"));

  const auto report = report_of(output);
  const auto& kept = report.at("evaluation");
  const auto& wanted = eval.at("perplexity");
  for (const char* key :
       {"hash", "windows", "window_length", "predictions", "increase", "nats_increase", "kl_divergence",
        "same_top_token", "top5_overlap", "window_nats", "first_token", "text_bytes"}) {
    CAPTURE(key);
    CHECK(kept.at(key) == wanted.at(key));
  }
  for (const char* side : {"model", "base"}) {
    CHECK(kept.at(side).at("perplexity") == wanted.at(side).at("perplexity"));
    CHECK(kept.at(side).at("bits_per_byte") == wanted.at(side).at("bits_per_byte"));
  }
  CHECK(kept.at("model").at("activations") == "int8 sym token in 42 linears");
  CHECK(kept.at("source") == "evaluation.txt");
  CHECK(report.at("run").at("evaluation").at("seconds").get<double>() > 0);
  // With the mapped pages of the model there is more in memory than without.
  for (const nlohmann::json& entry : {report.at("run"), report.at("run").at("evaluation")}) {
    const auto anonymous = entry.at("peak_memory_measured").get<double>();
    const auto resident = entry.at("peak_resident_memory").get<double>();
    CHECK(anonymous > 0);
    CHECK(resident > anonymous);
  }
  CHECK(has(read_file(output / "report.html"), "id=\"evaluation\""));
  CHECK(read_file(output / "report.h5").find("window_nats") != std::string::npos);
  for (const auto& entry : fs::directory_iterator(output)) CHECK(entry.path().extension() != ".tmp");

  CHECK(quietly({"verify", output.string()}).code == 0);
  const Outcome text = quietly({"report", output.string(), "--top", "2"});
  CHECK(has(text.out, "evaluation.txt: 4 windows of 64 tokens"));
  CHECK(has(text.out, "KL divergence"));
  CHECK(quietly({"report", output.string(), "--json"}).out == read_file(output / "report.json"));
}

TEST_CASE("run prints the evaluation below the summary", "[run]") {
  const TempDir dir;
  Arguments arguments = run_with("w4a16", dir / "out", few_windows());
  arguments.emplace_back("--eval-bos");
  const Outcome outcome = quietly(arguments);
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("worst layers") < outcome.out.find("4 windows of 64 tokens, each begins with token 0"));
  CHECK(report_of(dir / "out").at("evaluation").at("first_token") == 0);
  // Apart from it, the report is that of a run without.
  auto with = report_of(dir / "out");
  auto without = report_of(quantized_example());
  for (auto* report : {&with, &without}) report->erase("run");
  with.erase("evaluation");
  CHECK(with == without);
}

TEST_CASE("mixed precision is evaluated too", "[run]") {
  const TempDir dir;
  Arguments arguments = run_with("w4a16", dir / "out", few_windows());
  for (const char* argument : {"--target-bits", "3.5", "--schemes", "W3G128,W4G128", "--measure", "output",
                               "--sensitivity-samples", "1", "--seq-len", "64", "--quiet", "--calibration"}) {
    arguments.emplace_back(argument);
  }
  arguments.push_back(example_model() + "/calibration.txt");
  const Outcome outcome = quietly(arguments);
  INFO(outcome.err);
  CHECK(outcome.code == 0);
  CHECK(report_of(dir / "out").at("evaluation").at("windows") == 4);
}

TEST_CASE("an evaluation that cannot be made is refused before the run", "[run]") {
  const TempDir dir;
  const fs::path out = dir / "out";
  const auto with_text = [&](const std::string& file) { return run_with("w4a16", out, {"--eval", file}); };
  check_refused(with_text("/no/such/text.txt"), out, 6, "--eval: /no/such/text.txt");
  write_file(dir / "short.txt", "Too short.");
  check_refused(with_text((dir / "short.txt").string()), out, 2, "do not fill one sequence");
  check_refused(with_text((dir / "short.txt").string()), out, 2, "--eval-seq-len");
  write_file(dir / "empty.txt", "");
  CHECK(quietly(with_text((dir / "empty.txt").string())).code != 0);
  write_file(dir / "bad.jsonl", "{\"txt\": 1}\n");
  check_refused(with_text((dir / "bad.jsonl").string()), out, 5, "bad.jsonl, line 1");
  check_refused(run_with("w4a16", out, {"--eval-windows", "3"}), out, 2, "add --eval FILE");
  check_refused(run_with("w4a16", out, {"--eval", evaluation_text(), "--eval-seq-len", "1"}), out, 2, "--eval-seq-len");
  check_refused(run_with("w4a16", out, {"--eval", evaluation_text(), "--memory", "18M"}), out, 2, "is too small");
}

TEST_CASE("inputs in NVFP4 are evaluated as they will run", "[run]") {
  const TempDir dir;
  const fs::path out = dir / "out";
  write_file(
      dir / "nvfp4.yaml",
      "s_stage:\n  m_modifiers:\n    QuantizationModifier: {targets: [Linear], scheme: NVFP4, ignore: [lm_head]}\n");
  Arguments nvfp4 = run_with((dir / "nvfp4.yaml").string(), out, few_windows());
  for (const std::string& argument :
       Arguments{"--calibration", example_model() + "/calibration.txt", "--samples", "2", "--seq-len", "64"}) {
    nvfp4.push_back(argument);
  }
  const Outcome outcome = quietly(nvfp4);
  INFO(outcome.err);
  CHECK(outcome.code == 0);
  CHECK(report_of(out).at("evaluation").at("model").at("perplexity").at("mean").get<double>() > 1);
}

TEST_CASE("models that cannot be evaluated are refused before the run", "[run]") {
  const TempDir dir;
  const fs::path bare = dir / "bare";
  fs::create_directories(bare);
  for (const char* file : {"config.json", "model.safetensors"}) fs::copy(fs::path(example_model()) / file, bare / file);
  const fs::path out = dir / "out";
  const Arguments rest = few_windows();
  const auto run_on = [&](const fs::path& model) {
    Arguments arguments{"run", "w4a16", "--model", model.string(), "--output", out.string()};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return arguments;
  };
  check_refused(run_on(bare), out, 6, "has no tokenizer.json");
  std::string config = read_file(bare / "config.json");
  config.replace(config.find("\"llama\""), 7, "\"marsx\"");
  fs::remove(bare / "config.json");
  write_file(bare / "config.json", config);
  check_refused(run_on(bare), out, 4, "marsx");
}

TEST_CASE("a run that dies while it evaluates leaves a complete checkpoint, and goes on with --resume", "[run]") {
  const TempDir dir;
  const fs::path output = dir / "out";
  const std::string out = output.string();
  const std::string text = evaluation_text();
  const std::string model = example_model();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    setenv("OMP_WAIT_POLICY", "passive", 1);
    if (freopen("/dev/null", "w", stderr) == nullptr || freopen("/dev/null", "w", stdout) == nullptr) _exit(125);
    execl(QUANT_EXECUTABLE, "quant", "run", "w4a16", "--model", model.c_str(), "--output", out.c_str(), "--eval",
          text.c_str(), "--eval-seq-len", "256", nullptr);
    _exit(126);
  }
  while (!fs::exists(output) && waitpid(child, nullptr, WNOHANG) == 0) usleep(500);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  REQUIRE(fs::exists(output));
  CHECK(quietly({"verify", out}).code == 0);
  CHECK_FALSE(report_of(output).contains("evaluation"));
  CHECK(read_file(output / "model.safetensors") == read_file(quantized_example() / "model.safetensors"));

  Arguments again = run_with("w4a16", output, few_windows());
  again.emplace_back("--resume");
  const Outcome resumed = quietly(again);
  INFO(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(report_of(output).at("evaluation").at("windows") == 4);
  // The arrays of the first run are still there.
  CHECK(has(read_file(output / "report.h5"), "row_nmse"));
  CHECK(quietly({"verify", out}).code == 0);
  Arguments other = run_with("w8a8", output, few_windows());
  other.emplace_back("--resume");
  const Outcome refused = quietly(other);
  CHECK(refused.code == 6);
  CHECK(has(refused.err, "quant eval"));
}
