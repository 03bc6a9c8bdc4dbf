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

// Runs the program and kills it after `delay`; a negative delay lets it finish.
Outcome run_and_kill(const std::filesystem::path& model, const std::filesystem::path& output,
                     std::chrono::microseconds delay) {
  const std::string recipe = std::string(QUANT_SOURCE_DIR) + "/recipes/w4a16.yaml";
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    execl(QUANT_EXECUTABLE, "quant", "run", recipe.c_str(), "--model", model.c_str(), "--output", output.c_str(),
          "--resume", static_cast<char*>(nullptr));
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

}  // namespace

TEST_CASE("kills at random moments lose nothing") {
  TempDir dir;
  quant::test::write_tiny_model(dir / "model", {.layers = 6, .hidden = 512, .intermediate = 1408, .vocabulary = 2000});
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_and_kill(dir / "model", dir / "whole", std::chrono::microseconds(-1)).status == 0);
  const auto duration = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  const auto expected = files_of(dir / "whole");
  std::mt19937 random(20240229);
  int kills = 0;
  for (int round = 0; round < 12; ++round) {
    const auto output = dir / ("out" + std::to_string(round));
    std::uniform_int_distribution<std::int64_t> delay(0, duration.count());
    while (!std::filesystem::exists(output)) {
      const Outcome outcome = run_and_kill(dir / "model", output, std::chrono::microseconds(delay(random)));
      kills += outcome.killed ? 1 : 0;
      REQUIRE((outcome.killed || outcome.status == 0));
      if (kills > 500) break;
    }
    CHECK(files_of(output) == expected);
    CHECK_FALSE(std::filesystem::exists(output.string() + ".partial"));
  }
  CHECK(kills > 0);
}
