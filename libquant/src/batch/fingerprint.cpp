// What a job's result depends on, as one hash.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>

#include "hash.h"
#include "output/files.h"
#include "quant/batch.h"
#include "quant/error.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

std::string stamp_of(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return "none";
  return fmt::format("{} {}.{}", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

// The files of a model's folder, or the one file.
std::string stamps_of(const fs::path& path) {
  std::error_code failed;
  if (!fs::is_directory(path, failed)) return stamp_of(path);
  std::vector<std::string> lines;
  for (const auto& entry : fs::directory_iterator(path, failed)) {
    std::error_code ignored;
    if (!entry.is_regular_file(ignored)) continue;
    lines.push_back(entry.path().filename().string() + " " + stamp_of(entry.path()));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, "\n"));
}

std::string text_of(const fs::path& recipe) {
  try {
    return read_text_file(recipe);
  } catch (const Error&) {
    return "none";
  }
}

std::string options_text(const BatchOptions& given, const std::vector<BatchOption>& known) {
  std::string text;
  for (const BatchOption& option : known) {
    const auto found = given.find(std::string(option.key));
    if (found == given.end() || !option.decides) continue;
    text += fmt::format("{}={}\n", option.key, found->second);
    if (option.value == BatchValue::path) text += stamps_of(found->second) + "\n";
  }
  return text;
}

}  // namespace

std::string job_fingerprint(const BatchJob& job, const fs::path& recipe_file) {
  std::string text = fmt::format("model {}\noutput {}\nrecipe\n{}\n", job.model, job.output, text_of(recipe_file));
  for (const auto& [name, value] : job.set) text += fmt::format("set {}={}\n", name, value);
  text += options_text(job.options, batch_run_options());
  if (job.convert) {
    text += fmt::format("convert {} {}\n{}", job.convert->to, job.convert->output,
                        options_text(job.convert->options, batch_convert_options()));
  }
  return hash_hex(text) + " " + hash_hex(stamps_of(job.model));
}

bool same_but_for_files(std::string_view one, std::string_view other) {
  return one.substr(0, one.find(' ')) == other.substr(0, other.find(' '));
}

}  // namespace quant
