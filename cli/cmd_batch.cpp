// quant batch: many models and recipes, unattended.
#include <fmt/format.h>

#include <cstdio>
#include <thread>

#include "batch_plan.h"
#include "batch_run.h"
#include "batch_text.h"
#include "errors.h"
#include "machine_memory.h"
#include "quant/batch_yaml.h"
#include "session.h"
#include "units.h"

namespace quant::cli {
namespace {

struct BatchCommand {
  std::string file;
  bool dry_run = false;
  bool retry_failed = false;
  bool no_wait = false;
  bool quiet = false;
  std::string memory;
  int threads = 0;
  int jobs = 0;
  std::uint64_t stale_after = 120;
};

// Nine tenths of what is free: others live here too.
std::uint64_t memory_budget(const BatchCommand& options, const JobBatch& batch) {
  if (!options.memory.empty()) return parse_size(options.memory, "--memory");
  if (!batch.machine.memory.empty()) return parse_size(batch.machine.memory, "machine: memory");
  return available_memory() / 10 * 9;
}

BatchRunOptions run_options(const BatchCommand& options, const JobBatch& batch) {
  BatchRunOptions run;
  run.memory = memory_budget(options, batch);
  run.threads = options.threads > 0 ? options.threads : batch.machine.threads;
  if (run.threads == 0) run.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  run.jobs = options.jobs > 0 ? options.jobs : batch.machine.jobs;
  run.retry_failed = options.retry_failed;
  run.wait = !options.no_wait;
  run.quiet = options.quiet;
  run.times.stale = std::chrono::seconds(options.stale_after);
  run.times.heartbeat = std::min<std::chrono::milliseconds>(run.times.heartbeat, run.times.stale / 4);
  return run;
}

int show_plan(const JobBatch& batch, const BatchPlan& plan, int threads, const Session& session) {
  std::fputs(batch_remarks(plan).c_str(), stderr);
  write_stdout(session.json ? json_text(batch_plan_json(batch, plan, threads)) : batch_plan_text(batch, plan));
  for (const PlannedJob& job : plan.jobs) {
    if (!job.problems.empty()) return exit_code(ErrorCode::recipe);
  }
  return kExitOk;
}

int batch_command(const BatchCommand& options, Session& session) {
  const JobBatch batch = load_batch(options.file);
  const BatchPaths paths(batch.root);
  const BatchRunOptions run = run_options(options, batch);
  const int threads = run.jobs > 0 ? std::max(1, run.threads / run.jobs) : run.threads;
  if (!options.dry_run) make_batch_folders(paths);
  const BatchPlan plan = plan_batch(batch, paths, threads, session, options.quiet);
  if (options.dry_run) return show_plan(batch, plan, threads, session);
  if (!options.quiet) std::fputs(batch_remarks(plan).c_str(), stderr);
  const bool interrupted = run_batch(batch, plan, paths, run);
  const Claims claims(paths.state, run.times);
  const BatchSummary summary = batch_summary(batch, plan, claims);
  if (session.json) {
    write_stdout(summary_to_json(summary));
  } else if (!options.quiet) {
    write_stdout(batch_summary_text(summary, paths));
  }
  if (interrupted) return exit_code(ErrorCode::interrupted);
  return summary.all_complete() ? kExitOk : kExitFinding;
}

}  // namespace

void add_batch(CLI::App& program, Session& session) {
  const auto options = std::make_shared<BatchCommand>();
  CLI::App* command =
      add_command(program, session, "batch", "Compress many models with many recipes, unattended, and compare them",
                  "quant batch examples/batch.yaml", options, batch_command);
  command->add_option("FILE", options->file, "Job file (docs/batch.md)")->required();
  command->add_flag("--dry-run", options->dry_run, "Plan all jobs, say what is wrong with them, and run nothing");
  command->add_flag("--retry-failed", options->retry_failed, "Run failed jobs again, though nothing of them changed");
  command->add_flag("--no-wait", options->no_wait, "Do not wait for jobs that other processes work on");
  command->add_option("--memory", options->memory, "Memory for all jobs together, as in 64G; by default what is free")
      ->type_name("SIZE");
  add_threads_option(*command, options->threads);
  command->add_option("--jobs", options->jobs, "Jobs at once; by default as many as memory and threads allow")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command
      ->add_option("--stale-after", options->stale_after,
                   "Seconds without a sign of life after which the jobs of another machine are taken over")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--quiet", options->quiet, "No progress, no warnings and no summary");
}

}  // namespace quant::cli
