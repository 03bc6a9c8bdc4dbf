#include "batch_files.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "convert_command.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

// What is said of the pass over text: without meaning where statistics come from a file.
const std::set<std::string_view>& pass_options() {
  static const std::set<std::string_view> keys = {
      "calibration", "samples",    "seq_len",     "shuffle",           "seed",
      "no_pack",     "no_special", "all_experts", "activation_memory", "unquantized_inputs"};
  return keys;
}

void add_option(const BatchOption& option, const std::string& value, std::vector<std::string>& arguments) {
  std::string name = "--" + std::string(option.key);
  std::replace(name.begin(), name.end(), '_', '-');
  if (option.value != BatchValue::flag) {
    // One word, so that no value is taken for an option.
    arguments.push_back(name + "=" + value);
  } else if (value == "true") {
    arguments.push_back(name);
  }
}

template <class Wanted>
void add_options(const BatchOptions& given, const std::vector<BatchOption>& known, const Wanted& wanted,
                 std::vector<std::string>& arguments) {
  for (const BatchOption& option : known) {
    const auto found = given.find(std::string(option.key));
    if (found != given.end() && wanted(option.key)) add_option(option, found->second, arguments);
  }
}

template <class Wanted>
std::vector<std::string> run_with(const BatchJob& job, int threads, const Wanted& wanted) {
  std::vector<std::string> arguments = {"run", job.recipe, "--model=" + job.model, "--output=" + job.output};
  for (const auto& [name, value] : job.set) arguments.push_back("--set=" + name + "=" + value);
  add_options(job.options, batch_run_options(), wanted, arguments);
  if (!job.options.contains("threads") && threads > 0) arguments.push_back("--threads=" + std::to_string(threads));
  return arguments;
}

}  // namespace

std::vector<std::string> run_arguments(const BatchJob& job, int threads) {
  return run_with(job, threads, [](std::string_view) { return true; });
}

std::vector<std::string> run_arguments(const BatchJob& job, int threads, const fs::path& statistics) {
  const bool evaluates = wants_evaluation(job);
  std::vector<std::string> arguments = run_with(job, threads, [&](std::string_view key) {
    // The template of conversations, and the products, are the evaluation's too.
    return !pass_options().contains(key) && (evaluates || key != "chat_template");
  });
  arguments.push_back("--statistics=" + statistics.string());
  return arguments;
}

std::vector<std::string> statistics_arguments(const BatchJob& job, int threads, const fs::path& recipe,
                                              const fs::path& output, const fs::path& statistics) {
  std::vector<std::string> arguments = {"run", recipe.string(), "--model=" + job.model, "--output=" + output.string(),
                                        "--save-statistics=" + statistics.string()};
  add_options(
      job.options, batch_run_options(),
      [](std::string_view key) {
        return pass_options().contains(key) || key == "product" || key == "chat_template" || key == "memory" ||
               key == "threads";
      },
      arguments);
  if (!job.options.contains("threads") && threads > 0) arguments.push_back("--threads=" + std::to_string(threads));
  return arguments;
}

std::vector<std::string> convert_arguments(const BatchJob& job, int threads) {
  const BatchConversion& convert = *job.convert;
  std::vector<std::string> arguments = {"convert", job.output, "--output=" + convert.output, "--to=" + convert.to};
  if (convert_uses("--overwrite-partial", convert.to)) arguments.emplace_back("--overwrite-partial");
  add_options(
      convert.options, batch_convert_options(), [](std::string_view) { return true; }, arguments);
  const int used = job_threads(job, threads);
  if (used > 0 && convert_uses("--threads", convert.to)) arguments.push_back("--threads=" + std::to_string(used));
  return arguments;
}

int job_threads(const BatchJob& job, int usual) {
  const auto found = job.options.find("threads");
  const int given = found == job.options.end() ? 0 : std::atoi(found->second.c_str());
  return given > 0 ? given : usual;
}

bool wants_evaluation(const BatchJob& job) { return job.options.contains("eval"); }

fs::path partial_of(const fs::path& output) { return output.string() + ".partial"; }

std::uint64_t bytes_of(const fs::path& path) {
  std::error_code failed;
  if (fs::is_regular_file(path, failed)) return fs::file_size(path, failed);
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path, failed)) {
    std::error_code ignored;
    if (entry.is_regular_file(ignored)) bytes += entry.file_size(ignored);
  }
  return bytes;
}

}  // namespace quant::cli
