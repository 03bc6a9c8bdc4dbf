#include "batch_text.h"

#include <fmt/format.h>

#include <cmath>

#include "batch_files.h"
#include "metrics_text.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

std::string state_of(const PlannedJob& job) {
  if (job.complete) return "complete";
  return job.problems.empty() ? "to run" : "refused";
}

std::string statistics_of(const PlannedJob& job) {
  if (!job.pass.empty()) return "shared";
  return job.demand.pass.empty() ? "" : "own pass";
}

std::string small(double value) { return std::isfinite(value) ? nmse_text(value) : ""; }

std::string fixed(double value) { return std::isfinite(value) ? fmt::format("{:.3f}", value) : ""; }

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

Json batch_plan_json(const JobBatch& batch, const BatchPlan& plan, int threads) {
  Json jobs = Json::array();
  for (const PlannedJob& planned : plan.jobs) {
    const BatchJob& job = *planned.job;
    Json entry = {{"name", job.name},
                  {"model", job.model},
                  {"recipe", job.recipe},
                  {"output", job.output},
                  {"converted", job.convert ? Json(job.convert->output) : Json()},
                  {"state", state_of(planned)},
                  {"arguments", run_arguments(job, threads)},
                  {"threads", planned.threads},
                  {"peak_memory", planned.peak_memory},
                  {"seconds_estimate", planned.seconds},
                  {"problems", planned.problems},
                  {"warnings", planned.warnings}};
    entry["shared_statistics"] = !planned.pass.empty();
    entry["own_pass_because"] =
        planned.pass.empty() && !planned.demand.pass.empty() ? Json(planned.demand.reason) : Json();
    jobs.push_back(std::move(entry));
  }
  return {{"file", batch.file}, {"root", batch.root.string()}, {"jobs", std::move(jobs)}};
}

std::string batch_plan_text(const JobBatch& batch, const BatchPlan& plan) {
  Table table({{"job"},
               {"state"},
               {"threads", Table::Align::right},
               {"peak memory", Table::Align::right},
               {"time", Table::Align::right},
               {"statistics"},
               {"output"}});
  for (const PlannedJob& job : plan.jobs) {
    table.add({job.job->name, state_of(job), job.complete ? "" : std::to_string(job.threads),
               job.peak_memory > 0 ? human_bytes(job.peak_memory) : "",
               job.seconds > 0 ? human_seconds(job.seconds) : "", statistics_of(job), job.job->output});
  }
  std::size_t shared = 0;
  for (const SharedPass& pass : plan.passes) shared += pass.jobs.size();
  std::string text = table.text() + fmt::format("\n{} into {}", counted(batch.jobs.size(), "job"), batch.root.string());
  if (shared > 0)
    text += fmt::format("; {} of them learn from {} over data", shared,
                        plan.passes.size() == 1 ? "one pass" : fmt::format("{} passes", plan.passes.size()));
  return text + "\n";
}

std::string batch_remarks(const BatchPlan& plan) {
  std::string text;
  for (const PlannedJob& job : plan.jobs) {
    for (const std::string& problem : job.problems) {
      text += fmt::format("problem: {}: {}\n", job.job->name, printable(problem));
    }
    for (const std::string& warning : job.warnings) {
      text += fmt::format("warning: {}: {}\n", job.job->name, printable(warning));
    }
  }
  return text;
}

std::string batch_summary_text(const BatchSummary& summary, const BatchPaths& paths) {
  Table table({{"job"},
               {"state"},
               {"size", Table::Align::right},
               {"bits", Table::Align::right},
               {"NMSE", Table::Align::right},
               {"output error", Table::Align::right},
               {"perplexity", Table::Align::right},
               {"time", Table::Align::right},
               {"memory", Table::Align::right},
               {"front"},
               {"error"}});
  for (const JobRow& row : summary.rows) {
    const JobOutcome& outcome = row.outcome;
    std::vector<std::string> cells = {row.name, std::string(to_string(outcome.state))};
    if (outcome.figures) {
      const JobFigures& f = *outcome.figures;
      cells.insert(cells.end(), {human_bytes(f.bytes_after), fixed(f.bits_per_parameter), small(f.nmse),
                                 small(f.output_error), fixed(f.perplexity)});
    } else {
      cells.insert(cells.end(), 5, "");
    }
    cells.push_back(outcome.seconds > 0 ? human_seconds(outcome.seconds) : "");
    cells.push_back(outcome.peak_memory > 0 ? human_bytes(outcome.peak_memory) : "");
    cells.emplace_back(row.on_front ? "*" : "");
    cells.push_back(first_line(outcome.error));
    table.add(cells);
  }
  return table.text() + fmt::format("\n{} of {} complete; {}\n", summary.count(JobState::complete),
                                    counted(summary.rows.size(), "job"), paths.html.string());
}

}  // namespace quant::cli
