#include "run_quant.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

#include "support/catch.h"
#include "support/temp_dir.h"

namespace quant::test {
namespace {

namespace fs = std::filesystem;

void redirect(int target, const fs::path& file) {
  const int opened = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (opened < 0 || dup2(opened, target) < 0) _exit(125);
}

int run(const fs::path& out, const fs::path& err, const std::vector<std::string>& arguments,
        const std::vector<std::string>& environment) {
  std::vector<char*> argv{const_cast<char*>(QUANT_EXECUTABLE)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
    redirect(STDOUT_FILENO, out);
    redirect(STDERR_FILENO, err);
    execv(QUANT_EXECUTABLE, argv.data());
    _exit(126);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

fs::path make_quantized(const TempDir& dir) {
  const fs::path output = dir / "w4a16";
  const Outcome made = run_quant({"run", "w4a16", "--model", example_model(), "--output", output.string()});
  if (made.code != 0) throw std::runtime_error("quant run failed: " + made.err);
  return output;
}

}  // namespace

Arguments with(Arguments arguments, const Arguments& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

Outcome run_quant(const Arguments& arguments, const std::vector<std::string>& environment) {
  const TempDir dir;
  Outcome outcome;
  outcome.code = run(dir / "out", dir / "err", arguments, environment);
  outcome.out = read_file(dir / "out");
  outcome.err = read_file(dir / "err");
  return outcome;
}

Outcome quietly(const Arguments& arguments) { return run_quant(arguments, {"OMP_WAIT_POLICY=passive"}); }

Outcome run_quant_into(const fs::path& file, const Arguments& arguments) {
  const TempDir dir;
  Outcome outcome;
  outcome.code = run(file, dir / "err", arguments, {});
  outcome.err = read_file(dir / "err");
  return outcome;
}

nlohmann::json json_of(const Outcome& outcome) {
  INFO(outcome.err);
  auto json = nlohmann::json::parse(outcome.out, nullptr, false);
  REQUIRE(json.is_object());
  return json;
}

nlohmann::json report_of(const fs::path& output) { return nlohmann::json::parse(read_file(output / "report.json")); }

std::string example_model() { return std::string(QUANT_SOURCE_DIR) + "/examples/tiny-llama-novels"; }

const fs::path& quantized_example() {
  static const TempDir dir;
  static const fs::path output = make_quantized(dir);
  return output;
}

void write_safetensors(const fs::path& file, const std::vector<std::pair<std::string, std::vector<float>>>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;
  for (const auto& [name, values] : tensors) {
    const std::size_t start = data.size();
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    header[name] = {{"dtype", "F32"}, {"shape", {values.size()}}, {"data_offsets", {start, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  write_file(file, bytes + text + data);
}

}  // namespace quant::test
