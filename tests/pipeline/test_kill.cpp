// Kills the program at random moments and resumes it, until the output is complete; it must equal an uninterrupted
// run's.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "calibrated_fixture.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

using quant::test::read_file;
using quant::test::TempDir;

namespace {

struct Outcome {
  bool killed = false;
  int status = 0;
};

// Runs the program with these arguments and kills it after `delay`; a negative delay lets it finish.
Outcome run_and_kill(std::vector<std::string> arguments, const std::filesystem::path& output,
                     std::chrono::microseconds delay) {
  arguments.insert(arguments.begin(), {"quant", "run"});
  arguments.insert(arguments.end(), {"--output", output.string(), "--resume"});
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    execv(QUANT_EXECUTABLE, words.data());
    _exit(127);
  }
  if (delay.count() >= 0) {
    std::this_thread::sleep_for(delay);
    kill(child, SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFSIGNALED(status), WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

std::map<std::string, std::string> files_of(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("report.")) files[name] = read_file(entry.path());
  }
  return files;
}

// Kills runs of these arguments again and again until they complete, several times over.
void check_kills(const TempDir& dir, const std::vector<std::string>& arguments, int rounds) {
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_and_kill(arguments, dir / "whole", std::chrono::microseconds(-1)).status == 0);
  const auto duration = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  const auto expected = files_of(dir / "whole");
  std::mt19937 random(20240229);
  int kills = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto output = dir / ("out" + std::to_string(round));
    std::uniform_int_distribution<std::int64_t> delay(0, duration.count());
    while (!std::filesystem::exists(output)) {
      const Outcome outcome = run_and_kill(arguments, output, std::chrono::microseconds(delay(random)));
      kills += outcome.killed ? 1 : 0;
      REQUIRE((outcome.killed || outcome.status == 0));
      if (kills > 500) break;
    }
    CHECK(files_of(output) == expected);
    CHECK_FALSE(std::filesystem::exists(output.string() + ".partial"));
  }
  CHECK(kills > 0);
}

}  // namespace

TEST_CASE("kills at random moments lose nothing") {
  TempDir dir;
  quant::test::write_tiny_model(dir / "model", {.layers = 6, .hidden = 512, .intermediate = 1408, .vocabulary = 2000});
  const std::string recipe = std::string(QUANT_SOURCE_DIR) + "/recipes/w4a16.yaml";
  check_kills(dir, {recipe, "--model", (dir / "model").string()}, 12);
}

TEST_CASE("kills of calibrated runs lose nothing") {
  TempDir dir;
  quant::test::write_tiny_llama(dir / "model",
                                {.layers = 6, .hidden = 128, .intermediate = 256, .heads = 4, .kv_heads = 2});
  quant::test::write_ids(dir / "ids.npy", 48, 64, 50);
  // Folding, a Gram matrix per input, a cache's scales, and activations that do not all fit in memory.
  quant::test::write_file(dir / "recipe.yaml",
                          "default_stage:\n  default_modifiers:\n    SmoothQuantModifier: {smoothing_strength: 0.5}\n"
                          "    GPTQModifier:\n      targets: [Linear]\n      ignore: [lm_head]\n      scheme: W8A8\n"
                          "      kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false, "
                          "symmetric: true}\n");
  check_kills(dir,
              {(dir / "recipe.yaml").string(), "--model", (dir / "model").string(), "--calibration",
               (dir / "ids.npy").string(), "--seq-len", "64", "--activation-memory", "1M"},
              6);
}
