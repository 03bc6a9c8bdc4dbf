// All jobs of a batch side by side.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>

#include "batch/outcome_json.h"
#include "output/files.h"
#include "quant/batch.h"
#include "quant/claims.h"
#include "quant/error.h"
#include "quant/version.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

std::string utc_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// A file that cannot be read is told as what came of the job.
JobOutcome known_outcome(const BatchPaths& paths, const std::string& job) {
  JobOutcome none;
  none.job = job;
  try {
    return read_outcome(paths, job).value_or(none);
  } catch (const Error& error) {
    none.state = JobState::failed;
    none.error = error.what();
    none.hint = error.hint();
    return none;
  }
}

void mark_fronts(BatchSummary& summary) {
  std::map<std::string, std::vector<JobRow*>> models;
  for (JobRow& row : summary.rows) {
    row.on_front = false;
    if (row.outcome.state == JobState::complete && row.outcome.figures) models[row.model].push_back(&row);
  }
  for (auto& [model, rows] : models) {
    std::vector<const JobFigures*> figures;
    for (const JobRow* row : rows) figures.push_back(&*row->outcome.figures);
    const Quality quality = common_quality(figures);
    if (quality == Quality::none) continue;
    std::vector<std::pair<double, double>> points;
    for (const JobFigures* one : figures) {
      points.emplace_back(static_cast<double>(one->bytes_after), quality_of(*one, quality));
    }
    const std::vector<bool> front = pareto_front(points);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i]->on_front = front[i];
  }
}

// Several processes may write at the same time: each has a file of its own until it is renamed.
void replace_file(const fs::path& path, std::string_view text) {
  char host[256] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  fs::path own = path;
  own += fmt::format(".{}.{}", host, ::getpid());
  write_file_atomically(own, text);
  std::error_code failed;
  fs::rename(own, path, failed);
  if (failed) throw_io_error("cannot write", path, failed.value());
}

}  // namespace

std::size_t BatchSummary::count(JobState state) const {
  return static_cast<std::size_t>(
      std::count_if(rows.begin(), rows.end(), [&](const JobRow& row) { return row.outcome.state == state; }));
}

std::string_view title(Quality quality) {
  switch (quality) {
    case Quality::perplexity:
      return "perplexity";
    case Quality::output_error:
      return "relative error of outputs";
    case Quality::weight_error:
      return "NMSE of weights";
    case Quality::none:
      return "none";
  }
  return "none";
}

double quality_of(const JobFigures& figures, Quality quality) {
  switch (quality) {
    case Quality::perplexity:
      return figures.perplexity;
    case Quality::output_error:
      return figures.output_error;
    case Quality::weight_error:
      return figures.nmse;
    case Quality::none:
      break;
  }
  return std::nan("");
}

Quality common_quality(const std::vector<const JobFigures*>& jobs) {
  for (const Quality quality : {Quality::perplexity, Quality::output_error, Quality::weight_error}) {
    const bool all = !jobs.empty() && std::all_of(jobs.begin(), jobs.end(), [&](const JobFigures* job) {
      return std::isfinite(quality_of(*job, quality));
    });
    if (all) return quality;
  }
  return Quality::none;
}

std::vector<bool> pareto_front(const std::vector<std::pair<double, double>>& points) {
  const auto finite = [](const auto& point) { return std::isfinite(point.first) && std::isfinite(point.second); };
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (finite(points[i])) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return points[a] < points[b]; });
  std::vector<bool> front(points.size(), false);
  const std::pair<double, double>* last = nullptr;  // on the front: none before has a smaller loss
  for (const std::size_t i : order) {
    if (last != nullptr && points[i] != *last && points[i].second >= last->second) continue;
    front[i] = true;
    last = &points[i];
  }
  return front;
}

BatchSummary summarize_batch(const JobBatch& batch, const std::map<std::string, std::string>& problems,
                             const Claims& claims) {
  const BatchPaths paths(batch.root);
  BatchSummary summary;
  summary.file = batch.file;
  summary.written = utc_text();
  for (const BatchJob& job : batch.jobs) {
    JobRow row;
    row.name = job.name;
    row.model = job.model_name;
    row.recipe = job.recipe_name;
    row.output = job.output;
    if (job.convert) row.converted = job.convert->output;
    row.outcome = known_outcome(paths, job.name);
    if (row.outcome.state == JobState::running) {
      const auto holder = claims.holder(job.name);
      if (!holder || !holder->alive) row.outcome.state = JobState::interrupted;
    }
    const auto problem = problems.find(job.name);
    if (problem != problems.end() && row.outcome.state != JobState::running) {
      row.outcome.state = JobState::refused;
      row.outcome.error = problem->second;
      row.outcome.hint.clear();
      row.outcome.figures.reset();
    }
    summary.rows.push_back(std::move(row));
  }
  mark_fronts(summary);
  return summary;
}

std::string summary_to_json(const BatchSummary& summary) {
  json jobs = json::array();
  for (const JobRow& row : summary.rows) {
    json entry = batch::outcome_json(row.outcome);
    entry.erase("job");
    entry["name"] = row.name;
    entry["model"] = row.model;
    entry["recipe"] = row.recipe;
    entry["output"] = row.output;
    entry["converted"] = row.converted.empty() ? json() : json(row.converted);
    entry["pareto"] = row.on_front;
    jobs.push_back(std::move(entry));
  }
  json counts;
  for (const JobState state : {JobState::waiting, JobState::running, JobState::interrupted, JobState::failed,
                               JobState::refused, JobState::complete}) {
    counts[std::string(to_string(state))] = summary.count(state);
  }
  const json all = {
      {"schema_version", kBatchSummaryVersion}, {"file", summary.file},        {"written", summary.written},
      {"tool_version", std::string(version())}, {"counts", std::move(counts)}, {"jobs", std::move(jobs)}};
  return all.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void write_summary(const BatchPaths& paths, const BatchSummary& summary) {
  replace_file(paths.html, summary_to_html(summary));
  replace_file(paths.json, summary_to_json(summary));
}

}  // namespace quant
