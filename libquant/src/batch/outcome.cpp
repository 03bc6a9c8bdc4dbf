// The file that says what came of a job, and the figures that it takes from the job's report.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "batch/outcome_json.h"
#include "output/files.h"
#include "quant/batch.h"
#include "quant/error.h"
#include "quant/report.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

json number(double value) { return std::isfinite(value) ? json(value) : json(); }

double number_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || !found->is_number() ? kNone : found->get<double>();
}

JobState state_of(const std::string& text) {
  for (const JobState state : {JobState::waiting, JobState::running, JobState::interrupted, JobState::failed,
                               JobState::refused, JobState::complete}) {
    if (to_string(state) == text) return state;
  }
  throw std::invalid_argument("unknown state '" + text + "'");
}

JobFigures figures_of(const json& object) {
  JobFigures figures;
  figures.bytes_before = object.at("bytes_before").get<std::uint64_t>();
  figures.bytes_after = object.at("bytes_after").get<std::uint64_t>();
  figures.layers = object.at("layers").get<std::uint64_t>();
  figures.fallbacks = object.at("fallbacks").get<std::uint64_t>();
  figures.seconds = object.at("seconds").get<double>();
  figures.peak_memory = object.at("peak_memory").get<std::uint64_t>();
  figures.bits_per_weight = number_of(object, "bits_per_weight");
  figures.bits_per_parameter = number_of(object, "bits_per_parameter");
  figures.nmse = number_of(object, "nmse");
  figures.output_error = number_of(object, "output_error");
  figures.perplexity = number_of(object, "perplexity");
  figures.base_perplexity = number_of(object, "base_perplexity");
  figures.divergence = number_of(object, "divergence");
  return figures;
}

JobOutcome outcome_of(const json& object) {
  JobOutcome outcome;
  outcome.job = object.at("job").get<std::string>();
  outcome.fingerprint = object.at("fingerprint").get<std::string>();
  outcome.state = state_of(object.at("state").get<std::string>());
  outcome.attempt = object.at("attempt").get<std::string>();
  outcome.error = object.at("error").get<std::string>();
  outcome.hint = object.at("hint").get<std::string>();
  outcome.exit_code = object.at("exit_code").get<int>();
  outcome.seconds = object.at("seconds").get<double>();
  outcome.peak_memory = object.at("peak_memory").get<std::uint64_t>();
  outcome.host = object.at("host").get<std::string>();
  outcome.finished = object.at("finished").get<std::string>();
  outcome.shared_statistics = object.at("shared_statistics").get<bool>();
  outcome.converted_bytes = object.at("converted_bytes").get<std::uint64_t>();
  if (object.contains("figures")) outcome.figures = figures_of(object.at("figures"));
  return outcome;
}

}  // namespace

namespace batch {

json figures_json(const JobFigures& figures) {
  return {{"bytes_before", figures.bytes_before},
          {"bytes_after", figures.bytes_after},
          {"layers", figures.layers},
          {"fallbacks", figures.fallbacks},
          {"seconds", figures.seconds},
          {"peak_memory", figures.peak_memory},
          {"bits_per_weight", number(figures.bits_per_weight)},
          {"bits_per_parameter", number(figures.bits_per_parameter)},
          {"nmse", number(figures.nmse)},
          {"output_error", number(figures.output_error)},
          {"perplexity", number(figures.perplexity)},
          {"base_perplexity", number(figures.base_perplexity)},
          {"divergence", number(figures.divergence)}};
}

json outcome_json(const JobOutcome& outcome) {
  json object = {{"job", outcome.job},
                 {"fingerprint", outcome.fingerprint},
                 {"state", to_string(outcome.state)},
                 {"attempt", outcome.attempt},
                 {"error", outcome.error},
                 {"hint", outcome.hint},
                 {"exit_code", outcome.exit_code},
                 {"seconds", outcome.seconds},
                 {"peak_memory", outcome.peak_memory},
                 {"host", outcome.host},
                 {"finished", outcome.finished},
                 {"shared_statistics", outcome.shared_statistics},
                 {"converted_bytes", outcome.converted_bytes}};
  if (outcome.figures) object["figures"] = figures_json(*outcome.figures);
  return object;
}

}  // namespace batch

std::string_view to_string(JobState state) {
  switch (state) {
    case JobState::waiting:
      return "waiting";
    case JobState::running:
      return "running";
    case JobState::interrupted:
      return "interrupted";
    case JobState::failed:
      return "failed";
    case JobState::refused:
      return "refused";
    case JobState::complete:
      return "complete";
  }
  return "waiting";
}

BatchPaths::BatchPaths(const fs::path& root)
    : state(root / ".quant-batch"), json(root / "batch.json"), html(root / "batch.html") {}

fs::path BatchPaths::outcome(std::string_view job) const { return state / (std::string(job) + ".json"); }
fs::path BatchPaths::log(std::string_view job) const { return state / (std::string(job) + ".log"); }

void make_batch_folders(const BatchPaths& paths) {
  std::error_code failed;
  fs::create_directories(paths.state, failed);
  if (failed) throw_io_error("cannot make the folder", paths.state, failed.value());
  if (::access(paths.state.c_str(), W_OK | X_OK) == 0 && ::access(paths.json.parent_path().c_str(), W_OK | X_OK) == 0) {
    return;
  }
  throw_io_error("the batch cannot write into", paths.state.parent_path(), errno);
}

JobFigures read_figures(const fs::path& output) {
  const fs::path file = output / "report.json";
  const RunReport report = report_from_json(read_text_file(file), file.string());
  JobFigures figures;
  figures.bytes_before = report.bytes_before;
  figures.bytes_after = report.bytes_after;
  figures.layers = report.layers.size();
  figures.fallbacks = fallback_summary(report).layers;
  figures.seconds = report.seconds;
  figures.peak_memory = std::max(report.peak_resident_memory, report.peak_memory_measured);
  figures.bits_per_weight = report.layers.empty() ? kNone : report.bits_per_weight;
  figures.bits_per_parameter = report.model_bits_per_parameter;
  figures.nmse = report.layers.empty() ? kNone : summarize(total_errors(report)).nmse;
  const auto outputs = output_summary(report);
  figures.output_error = outputs ? outputs->relative_error : kNone;
  figures.perplexity = figures.base_perplexity = figures.divergence = kNone;
  if (report.evaluation) {
    const EvalResult& result = report.evaluation->result;
    figures.perplexity = result.perplexity.mean;
    if (result.base) {
      figures.base_perplexity = result.base->perplexity.mean;
      figures.divergence = result.base->divergence.mean.mean;
    }
  }
  return figures;
}

std::optional<JobOutcome> read_outcome(const BatchPaths& paths, std::string_view job) {
  const fs::path file = paths.outcome(job);
  std::error_code failed;
  if (!fs::exists(file, failed)) return std::nullopt;
  const std::string text = read_text_file(file);
  try {
    return outcome_of(json::parse(text));
  } catch (const std::exception& error) {
    throw Error(ErrorCode::corrupt_file, fmt::format("{} is no outcome of a job: {}", file.string(), error.what()),
                "delete it: the job then starts anew");
  }
}

void write_outcome(const BatchPaths& paths, const JobOutcome& outcome) {
  write_file_atomically(paths.outcome(outcome.job),
                        batch::outcome_json(outcome).dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace quant
