// quant batch: many jobs, broken ones, kills, several processes, and statistics that are shared.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "quant/batch.h"
#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"
#include "support/tiny_model.h"

using namespace quant::test;
using namespace std::chrono_literals;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A running quant that the test may kill.
class Started {
 public:
  Started(const Arguments& arguments, const fs::path& log) {
    std::vector<std::string> words = {QUANT_EXECUTABLE};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(file, STDOUT_FILENO);
    ::dup2(file, STDERR_FILENO);
    ::setenv("OMP_WAIT_POLICY", "passive", 1);
    ::execv(QUANT_EXECUTABLE, argv.data());
    ::_exit(126);
  }
  ~Started() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    wait();
  }
  Started(const Started&) = delete;
  Started& operator=(const Started&) = delete;

  pid_t pid() const { return pid_; }
  void kill(int signal) const { ::kill(pid_, signal); }
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

bool comes_true(const std::function<bool()>& what) {
  for (int i = 0; i < 6000; ++i) {
    if (what()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

/// A model with a weight that is not a number: its plan is sound, its run is not.
void write_bad_model(const fs::path& directory) {
  write_tiny_model(directory, {.hidden = 128, .intermediate = 256, .seed = 9});
  std::string bytes = read_file(directory / "model.safetensors");
  for (std::size_t i = bytes.size() - 64; i < bytes.size(); ++i) bytes[i] = '\xFF';
  write_file(directory / "model.safetensors", bytes);
}

/// 3 models, of which one is broken, and 4 recipes.
struct Night {
  TempDir dir{memory_folder()};
  fs::path file = dir / "jobs.yaml";

  explicit Night(const std::string& more = "") {
    write_tiny_model(dir / "first", {.layers = 3, .hidden = 128, .intermediate = 256, .seed = 1});
    write_tiny_model(dir / "second", {.layers = 2, .hidden = 128, .intermediate = 512, .seed = 2});
    write_bad_model(dir / "broken");
    write_file(file,
               "version: 1\noutput: \"out/{model}-{recipe}\"\nmachine: {jobs: 1, threads: 1}\nmatrix:\n"
               "  models: [first, broken, second]\n  recipes: [w4a16, w8a16, nf4, fp8_weight_only]\n" +
                   more);
  }
  fs::path out(const std::string& job) const { return dir / "out" / job; }
  json summary() const { return json::parse(read_file(dir / "out" / "batch.json")); }
  json job(const std::string& name) const {
    const json all = summary();
    for (const json& entry : all["jobs"]) {
      if (entry["name"] == name) return entry;
    }
    return {};
  }
  Arguments batch(const Arguments& more = {}) const { return with({"batch", file.string()}, more); }
};

const std::vector<std::string> kRecipes = {"w4a16", "w8a16", "nf4", "fp8_weight_only"};

/// How often a job's command was begun.
std::size_t begun(const Night& night, const std::string& job) {
  const std::string log = read_file(night.dir / "out" / ".quant-batch" / (job + ".log"));
  std::size_t count = 0;
  for (std::size_t at = log.find(": quant run"); at != std::string::npos; at = log.find(": quant run", at + 1)) ++count;
  return count;
}

std::string weights_of(const fs::path& model) { return read_file(model / "model.safetensors"); }

void check_night(const Night& night) {
  const json summary = night.summary();
  CHECK(summary["counts"]["complete"] == 8);
  CHECK(summary["counts"]["failed"] == 4);
  for (const std::string& recipe : kRecipes) {
    const json bad = night.job("broken-" + recipe);
    CHECK(bad["state"] == "failed");
    CHECK(has(bad["error"].get<std::string>(), "NaN or infinite"));
    CHECK_FALSE(fs::exists(night.out("broken-" + recipe)));
    for (const std::string model : {"first", "second"}) {
      const std::string name = model + "-" + recipe;
      const json good = night.job(name);
      CHECK(good["state"] == "complete");
      CHECK(good["figures"]["bytes_after"].get<std::uint64_t>() > 0);
      CHECK(good["figures"]["nmse"].get<double>() > 0);
      CHECK(good["peak_memory"].get<std::uint64_t>() > 1'000'000);
      CHECK(fs::exists(night.out(name) / "report.json"));
      CHECK_FALSE(fs::exists(night.out(name + ".partial")));
    }
  }
  const std::string html = read_file(night.dir / "out" / "batch.html");
  CHECK(has(html, "8 of 12 jobs complete, 4 failed."));
  for (const auto& entry : fs::directory_iterator(night.dir / "out" / ".quant-batch")) {
    CHECK_FALSE(has(entry.path().filename().string(), ".claim."));
  }
}

}  // namespace

TEST_CASE("a night of 3 models and 4 recipes survives a kill and reports its broken model", "[batch]") {
  const Night night;
  {
    Started batch(night.batch(), night.dir / "killed.txt");
    REQUIRE(comes_true([&] { return fs::exists(night.out("first-w8a16")); }));
    batch.kill(SIGKILL);
    CHECK(batch.wait() == 128 + SIGKILL);
  }
  const std::string kept = weights_of(night.out("first-w8a16"));
  CHECK(night.summary()["counts"]["complete"] < 8);
  const Outcome resumed = quietly(night.batch());
  INFO(resumed.err);
  CHECK(resumed.code == 1);
  check_night(night);
  CHECK(weights_of(night.out("first-w8a16")) == kept);
  CHECK(begun(night, "first-w4a16") == 1);
  CHECK(has(resumed.out, "8 of 12 jobs complete"));

  // Each output is what its command alone makes.
  for (const std::string& recipe : kRecipes) {
    const fs::path alone = night.dir / ("alone-" + recipe);
    REQUIRE(quietly({"run", recipe, "--model", (night.dir / "second").string(), "--output", alone.string()}).code == 0);
    CHECK(weights_of(alone) == weights_of(night.out("second-" + recipe)));
  }

  // Nothing is done twice; what failed is tried again when it is told to, or has changed.
  CHECK(quietly(night.batch()).code == 1);
  CHECK(begun(night, "broken-nf4") == 1);
  CHECK(begun(night, "second-nf4") == 1);
  CHECK(quietly(night.batch({"--retry-failed"})).code == 1);
  CHECK(begun(night, "broken-nf4") == 2);
  write_tiny_model(night.dir / "broken", {.hidden = 128, .intermediate = 256, .seed = 3});
  const Outcome repaired = quietly(night.batch({"--json"}));
  INFO(repaired.err);
  CHECK(repaired.code == 0);
  CHECK(json_of(repaired)["counts"]["complete"] == 12);
  CHECK(begun(night, "second-nf4") == 1);
}

TEST_CASE("three processes share the jobs, and one of them may be killed", "[batch]") {
  const Night night;
  std::vector<std::unique_ptr<Started>> processes;
  for (int i = 0; i < 3; ++i) {
    processes.push_back(std::make_unique<Started>(night.batch(), night.dir / ("process" + std::to_string(i) + ".txt")));
  }
  const fs::path state = night.dir / "out" / ".quant-batch";
  const auto claims_a_job = [&](pid_t pid) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(state, ignored)) {
      if (!has(entry.path().filename().string(), ".claim.")) continue;
      std::ifstream in(entry.path());
      const json claim = json::parse(in, nullptr, false);
      if (claim.is_object() && claim.value("pid", 0) == pid) return true;
    }
    return false;
  };
  REQUIRE(comes_true([&] { return claims_a_job(processes[1]->pid()); }));
  processes[1]->kill(SIGKILL);
  CHECK(processes[1]->wait() == 128 + SIGKILL);
  for (const int i : {0, 2}) {
    CHECK(processes[static_cast<std::size_t>(i)]->wait() == 1);
    INFO(read_file(night.dir / ("process" + std::to_string(i) + ".txt")));
    CHECK(has(read_file(night.dir / ("process" + std::to_string(i) + ".txt")), "8 of 12 jobs complete"));
  }
  check_night(night);
  std::size_t runs = 0;
  for (const std::string model : {"first", "second", "broken"}) {
    for (const std::string& recipe : kRecipes) runs += begun(night, model + "-" + recipe);
  }
  CHECK(runs >= 12);
  CHECK(runs <= 13);  // the killed one's is begun again
  for (const std::string& recipe : kRecipes) {
    const fs::path alone = night.dir / ("alone-" + recipe);
    REQUIRE(quietly({"run", recipe, "--model", (night.dir / "first").string(), "--output", alone.string()}).code == 0);
    CHECK(weights_of(alone) == weights_of(night.out("first-" + recipe)));
  }
}

TEST_CASE("an interrupted batch stops its children and goes on", "[batch]") {
  const Night night;
  {
    Started batch(night.batch(), night.dir / "stopped.txt");
    REQUIRE(comes_true([&] { return fs::exists(night.out("first-w4a16")); }));
    batch.kill(SIGINT);
    CHECK(batch.wait() == 130);
  }
  CHECK(night.summary()["counts"]["running"] == 0);
  CHECK(night.summary()["counts"]["complete"] < 8);
  CHECK(quietly(night.batch()).code == 1);
  check_night(night);
}

TEST_CASE("a dry run plans every job and makes nothing", "[batch]") {
  const Night night(
      "jobs:\n  - {model: nowhere, recipe: w4a16}\n  - {model: first, recipe: unknown_recipe}\n"
      "  - {model: first, recipe: w4a16_gptq, name: no-text, product: f16}\n");
  const Outcome plan = quietly(night.batch({"--dry-run", "--json"}));
  CHECK(plan.code == 3);
  const json jobs = json_of(plan)["jobs"];
  INFO(plan.err);
  REQUIRE(jobs.size() == 15);
  CHECK(jobs[0]["state"] == "to run");
  CHECK(jobs[0]["peak_memory"].get<std::uint64_t>() > 0);
  CHECK(jobs[12]["state"] == "refused");
  CHECK(has(jobs[12]["problems"][0].get<std::string>(), "nowhere"));
  CHECK(has(jobs[13]["problems"][0].get<std::string>(), "unknown_recipe"));
  CHECK(has(jobs[14]["problems"][0].get<std::string>(), "--product"));
  CHECK(has(plan.err, "problem: nowhere-w4a16: "));
  CHECK_FALSE(fs::exists(night.dir / "out"));
}

TEST_CASE("outputs that this batch has not made are left alone", "[batch]") {
  const Night night;
  fs::create_directories(night.out("first-nf4"));
  write_file(night.out("first-nf4") / "mine", "x");
  CHECK(quietly(night.batch()).code == 1);
  CHECK(night.job("first-nf4")["state"] == "refused");
  CHECK(has(night.job("first-nf4")["error"].get<std::string>(), "this batch has not made it"));
  CHECK(night.job("second-nf4")["state"] == "complete");
  CHECK(read_file(night.out("first-nf4") / "mine") == "x");
  // A finished job whose options change is not made again over its output.
  const std::string text = read_file(night.file);
  write_file(night.file, text + "defaults: {shard_size: 1M}\n");
  CHECK(quietly(night.batch()).code == 1);
  CHECK(has(night.job("second-nf4")["error"].get<std::string>(), "when its recipe, options or files were others"));
}

TEST_CASE("a mistake in the job file, or nowhere to write, ends a batch at once", "[batch]") {
  const TempDir dir;
  write_file(dir / "jobs.yaml", "version: 1\noutput: \"out/{model}\"\nmatrix: {models: [m], recipes: [a, b]}\n");
  const Outcome collision = run_quant({"batch", (dir / "jobs.yaml").string()});
  CHECK(collision.code == 3);
  CHECK(has(collision.err, "jobs.yaml:3:"));
  CHECK_FALSE(fs::exists(dir / "out"));
  CHECK(run_quant({"batch", (dir / "none.yaml").string()}).code == 6);
  write_file(dir / "file", "");
  write_file(dir / "jobs.yaml", "version: 1\noutput: \"file/{model}-{recipe}\"\nmatrix: {models: [m], recipes: [a]}\n");
  const Outcome blocked = run_quant({"batch", (dir / "jobs.yaml").string()});
  CHECK(blocked.code == 6);
  CHECK(has(blocked.err, "file"));
}

TEST_CASE("recipes that take the unquantized model's inputs learn from one pass, with the same bytes", "[batch]") {
  const TempDir dir;
  const std::string text = example_model() + "/calibration.txt";
  write_file(dir / "gptq.yaml",
             "s_stage:\n  m_modifiers:\n    GPTQModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head], "
             "asymmetric: 0, residual: 0}\n");
  write_file(dir / "static.yaml",
             "s_stage:\n  m_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head, \"re:.*down_proj\"]\n"
             "      config_groups:\n        g:\n          targets: [Linear]\n"
             "          weights: {num_bits: 8, strategy: channel}\n"
             "          input_activations: {num_bits: 8, strategy: tensor, dynamic: false}\n");
  const auto file_of = [&](const std::string& name, const std::string& more) {
    write_file(dir / (name + ".yaml"),
               "version: 1\noutput: \"" + name + "/{recipe}\"\n" + more + "defaults: {calibration: " + text +
                   ", samples: 4, seq_len: 64, unquantized_inputs: true}\nmachine: {threads: 2}\njobs:\n  - {model: " +
                   example_model() + ", recipe: gptq.yaml}\n  - {model: " + example_model() +
                   ", recipe: static.yaml}\n  - {model: " + example_model() +
                   ", recipe: gptq.yaml, name: sequential, output: \"" + name +
                   "/{name}\", unquantized_inputs: false}\n");
    return (dir / (name + ".yaml")).string();
  };
  const Outcome plan = quietly({"batch", file_of("shared", ""), "--dry-run", "--json"});
  INFO(plan.err);
  REQUIRE(plan.code == 0);
  const json planned = json_of(plan)["jobs"];
  CHECK(planned[0]["shared_statistics"] == true);
  CHECK(planned[1]["shared_statistics"] == true);
  CHECK(planned[2]["shared_statistics"] == false);
  CHECK(has(planned[2]["own_pass_because"].get<std::string>(), "earlier ones are quantized by this recipe"));

  const Outcome shared = quietly({"batch", file_of("shared", "")});
  INFO(shared.err);
  REQUIRE(shared.code == 0);
  const Outcome alone = quietly({"batch", file_of("alone", "share_statistics: false\n")});
  REQUIRE(alone.code == 0);
  const json first = report_of(dir / "shared" / "gptq");
  CHECK(first["calibration"]["product"] == "none");  // it took statistics from a file
  CHECK(report_of(dir / "alone" / "gptq")["calibration"]["inputs"] == "unquantized");
  CHECK_FALSE(report_of(dir / "shared" / "sequential")["calibration"].contains("inputs"));
  for (const std::string job : {"gptq", "static", "sequential"}) {
    CHECK(weights_of(dir / "shared" / job) == weights_of(dir / "alone" / job));
    CHECK(read_file(dir / "shared" / job / "config.json") == read_file(dir / "alone" / job / "config.json"));
  }
  CHECK(weights_of(dir / "shared" / "gptq") != weights_of(dir / "shared" / "sequential"));
  // Statistics go away with the last job that learns from them.
  for (const auto& entry : fs::directory_iterator(dir / "shared" / ".quant-batch")) {
    CHECK_FALSE(has(entry.path().filename().string(), "statistics-"));
  }
}

TEST_CASE("a job's output is converted and its text evaluated", "[batch]") {
  const TempDir dir;
  write_file(dir / "jobs.yaml", "version: 1\noutput: \"out/{recipe}\"\njobs:\n  - model: " + example_model() +
                                    "\n    recipe: w4a16\n    eval: " + example_model() +
                                    "/evaluation.txt\n    eval_windows: 1\n    eval_seq_len: 64\n"
                                    "    convert: {to: gptq, output: \"out/{recipe}-gptq\"}\n");
  const Outcome done = quietly({"batch", (dir / "jobs.yaml").string(), "--json"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  const json job = json_of(done)["jobs"][0];
  CHECK(job["figures"]["perplexity"].get<double>() > 1);
  CHECK(job["figures"]["divergence"].get<double>() > 0);
  CHECK(job["pareto"] == true);
  CHECK(job["converted_bytes"].get<std::uint64_t>() > 1'000'000);
  CHECK(fs::exists(dir / "out" / "w4a16-gptq" / "model.safetensors"));
  CHECK(has(read_file(dir / "out" / "batch.html"), "perplexity"));
}

TEST_CASE("a job's output is converted into any kind of file", "[batch]") {
  const TempDir dir;
  const std::string job = "  - {model: " + example_model() + ", recipe: ";
  write_file(dir / "jobs.yaml", "version: 1\noutput: \"out/{name}/\"\njobs:\n" + job +
                                    "gguf_q4_k_m, layout: libquant, name: a, convert: {to: gguf, type: Q8_0}}\n" + job +
                                    "w4a16, name: b, convert: {to: hdf5}}\n" + job +
                                    "w4a16, name: c, convert: {to: safetensors}}\n");
  const Outcome done = quietly({"batch", (dir / "jobs.yaml").string(), "--json"});
  INFO(done.err << done.out);
  REQUIRE(done.code == 0);
  CHECK(fs::is_regular_file(dir / "out" / "a.gguf"));
  CHECK(fs::exists(dir / "out" / "b-hdf5" / "model.h5"));
  CHECK(fs::exists(dir / "out" / "c-safetensors" / "model.safetensors"));
}

TEST_CASE("mistakes in conversions are told before anything runs", "[batch]") {
  const TempDir dir;
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"{to: ggguf}", "there is no format 'ggguf'"},
      {"{to: gguf, type: Q9_Z}", "'Q9_Z' is no block type"},
      {"{to: gguf, importance: nowhere.gguf}", "does not exist"},
      {"{to: awq, type: Q4_K}", "--type does nothing with --to awq"},
      {"{to: imatrix}", "is made of calibration statistics"}};
  for (const auto& [convert, message] : mistakes) {
    write_file(dir / "jobs.yaml", "version: 1\noutput: \"out/{name}\"\njobs:\n  - {model: " + example_model() +
                                      ", recipe: w4a16, name: a, convert: " + convert + "}\n");
    const Outcome told = quietly({"batch", (dir / "jobs.yaml").string(), "--dry-run"});
    INFO(convert << told.out << told.err);
    CHECK(told.code == 3);
    CHECK(has(told.out + told.err, message));
    CHECK_FALSE(fs::exists(dir / "out" / "a"));
  }
}

TEST_CASE("every option that a job may have is one of the command that it is for", "[batch]") {
  const auto check = [](const std::string& command, const std::vector<quant::BatchOption>& options) {
    const Outcome help = run_quant({command, "--help"});
    REQUIRE(help.code == 0);
    for (const quant::BatchOption& option : options) {
      std::string name = "--" + std::string(option.key);
      std::replace(name.begin(), name.end(), '_', '-');
      CAPTURE(name);
      CHECK((has(help.out, name + " ") || has(help.out, name + "\n")));
    }
  };
  check("run", quant::batch_run_options());
  check("convert", quant::batch_convert_options());
}
