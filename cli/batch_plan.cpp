#include "batch_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "batch_files.h"
#include "convert_command.h"
#include "errors.h"
#include "interrupt.h"
#include "output.h"
#include "plan_request.h"
#include "progress.h"
#include "quant/open.h"
#include "quant/recipe_yaml.h"
#include "ready_recipes.h"
#include "run_command.h"
#include "session.h"
#include "structured.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> without_first(const std::vector<std::string>& words) {
  return {words.begin() + 1, words.end()};
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

// What the job's files say of earlier calls: whether there is nothing left to do, and what stands in the way.
class Past {
 public:
  Past(const BatchJob& job, const BatchPaths& paths) : job_(job), outcome_(read_outcome(paths, job.name)) {}

  bool complete(const std::string& fingerprint) const {
    if (!outcome_ || outcome_->state != JobState::complete || !is_there(fs::path(job_.output) / "report.json")) {
      return false;
    }
    if (job_.convert && !is_there(job_.convert->output)) return false;
    // A model may be removed once it is compressed.
    return outcome_->fingerprint == fingerprint ||
           (!is_there(job_.model) && same_but_for_files(outcome_->fingerprint, fingerprint));
  }

  // Outputs first: another process may finish the job meanwhile, and says so only afterwards.
  static void add_problems(const BatchJob& job, const BatchPaths& paths, const std::string& fingerprint,
                           std::vector<std::string>& problems) {
    std::vector<std::string> outputs = {job.output};
    if (job.convert) outputs.push_back(job.convert->output);
    std::erase_if(outputs, [](const std::string& output) { return !is_there(output); });
    if (outputs.empty()) return;
    const auto outcome = read_outcome(paths, job.name);
    if (outcome && outcome->fingerprint == fingerprint) return;
    for (const std::string& output : outputs) {
      problems.push_back(fmt::format("{} exists, and {}; remove it, or choose another output", output,
                                     outcome ? "was made by this job when its recipe, options or files were others"
                                             : "this batch has not made it"));
    }
  }

 private:
  const BatchJob& job_;
  std::optional<JobOutcome> outcome_;
};

void take_plan(const RunCommand& command, const Registry& registry, PlannedJob& planned) {
  if (const auto outline = outline_structured_recipe(command.request, command.mixed.wanted(), registry)) {
    planned.problems = outline->problems;
    planned.warnings = outline->warnings;
    planned.peak_memory = outline->peak_memory;
    planned.demand.reason = "its recipe changes shapes";
    return;
  }
  PlanRequest request = command.request;
  request.evaluation = command.evaluation.text;
  const PreparedPlan prepared = prepare_plan(request, registry, "batch");
  planned.problems = prepared.plan.problems;
  planned.warnings = prepared.plan.warnings;
  planned.peak_memory = prepared.plan.peak_memory;
  planned.seconds = prepared.plan.seconds_estimate;
  if (!planned.problems.empty()) return;
  planned.demand = statistics_demand(prepared.plan);
  if (command.mixed.wanted()) planned.demand.reason = "its schemes follow from what is measured on its data";
}

void require_file(const std::string& file, const char* option) {
  if (file.empty() || is_there(file)) return;
  throw Error(ErrorCode::io, fmt::format("{}: {} does not exist", option, file));
}

PlannedJob plan_job(const BatchJob& job, const BatchPaths& paths, int threads, Session& session) {
  PlannedJob planned;
  planned.job = &job;
  planned.threads = job_threads(job, threads);
  try {
    const fs::path recipe = find_recipe(job.recipe);
    planned.fingerprint = job_fingerprint(job, recipe);
    const Past past(job, paths);
    planned.complete = past.complete(planned.fingerprint);
    if (planned.complete) return planned;
    const RunCommand command = parse_run(without_first(run_arguments(job, threads)));
    require_file(command.evaluation.text, "--eval");
    if (job.convert) check_conversion(without_first(convert_arguments(job, threads)), session);
    take_plan(command, session.registry, planned);
    Past::add_problems(job, paths, planned.fingerprint, planned.problems);
  } catch (...) {
    const Error error = to_error(std::current_exception());
    if (error.code() == ErrorCode::interrupted) throw;
    planned.problems.push_back(error.hint().empty() ? error.what()
                                                    : fmt::format("{} ({})", error.what(), error.hint()));
  }
  return planned;
}

// FNV-1a: names need nothing better.
std::string short_hash(std::string_view text) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return fmt::format("{:016x}", hash);
}

// Whether a pass that another process has begun, or an earlier call, collects all of these.
bool collects(const fs::path& recipe, const std::vector<std::string>& modules) {
  if (!is_there(recipe)) return false;
  const Json text = Json::parse(read_recipe_text(recipe), nullptr, false);
  const Json::json_pointer targets(
      "/statistics_stage/statistics_modifiers/QuantizationModifier/config_groups/all/targets");
  if (!text.is_object() || !text.contains(targets)) return false;
  const Json& list = text.at(targets);
  return std::all_of(modules.begin(), modules.end(), [&](const std::string& module) {
    return std::find(list.begin(), list.end(), module) != list.end();
  });
}

// The name is the same in every process: that of the data alone, unless a pass of this name collects too little.
void name_pass(const std::string& data, const std::vector<std::string>& modules, const BatchPaths& paths,
               SharedPass& pass) {
  const std::string base = ".statistics-" + short_hash(data);
  const std::string own = base + "-" + short_hash(fmt::format("{}", fmt::join(modules, "\n")));
  pass.recipe_text = collecting_recipe(modules);
  for (const std::string& name : {base, own}) {
    pass.name = name;
    pass.recipe = paths.state / (name + ".recipe.json");
    if (!is_there(pass.recipe)) break;
    if (!collects(pass.recipe, modules)) continue;
    pass.recipe_text = read_recipe_text(pass.recipe);
    break;
  }
  pass.output = paths.state / (pass.name + ".output");
  pass.statistics = paths.state / (pass.name + ".h5");
}

// The pass of these jobs, if it can be made and gives each what its own would.
std::optional<SharedPass> make_pass(const BatchPlan& plan, const std::vector<std::size_t>& jobs,
                                    const BatchPaths& paths, int threads, const Registry& registry) {
  const PlannedJob& first = plan.jobs[jobs.front()];
  std::vector<std::string> modules;
  for (const std::size_t i : jobs) {
    const auto& more = plan.jobs[i].demand.modules;
    modules.insert(modules.end(), more.begin(), more.end());
  }
  std::sort(modules.begin(), modules.end());
  modules.erase(std::unique(modules.begin(), modules.end()), modules.end());
  SharedPass pass;
  name_pass(first.demand.pass, modules, paths, pass);
  pass.threads = first.threads;
  pass.jobs = jobs;
  pass.arguments = statistics_arguments(*first.job, threads, pass.recipe, pass.output, pass.statistics);
  const RunCommand command = parse_run(without_first(pass.arguments));
  const auto checkpoint = open_checkpoint(command.request.model);
  const Recipe recipe = parse_recipe(pass.recipe_text, pass.recipe.string(), {}, registry);
  const Plan made = make_plan(*checkpoint, recipe, registry, plan_options(command.request));
  if (!made.problems.empty() || statistics_demand(made).pass != first.demand.pass) return std::nullopt;
  pass.peak_memory = made.peak_memory;
  pass.seconds = made.seconds_estimate;
  return pass;
}

void share_passes(const BatchPaths& paths, int threads, const Registry& registry, BatchPlan& plan) {
  std::map<std::string, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const PlannedJob& job = plan.jobs[i];
    if (job.complete || !job.problems.empty() || !job.demand.reason.empty()) continue;
    groups[job.demand.pass].push_back(i);
  }
  for (const auto& [text, jobs] : groups) {
    // One that is left of those that shared goes on with the same statistics.
    const bool left = is_there(paths.state / (".statistics-" + short_hash(text) + ".h5"));
    if (jobs.size() < 2 && !left) {
      plan.jobs[jobs.front()].demand.reason = "no other job learns from the same data";
      continue;
    }
    auto pass = make_pass(plan, jobs, paths, threads, registry);
    for (const std::size_t i : jobs) {
      if (pass) {
        plan.jobs[i].pass = pass->name;
      } else {
        plan.jobs[i].demand.reason = "a pass for all would divide the data in another way";
      }
    }
    if (pass) plan.passes.push_back(std::move(*pass));
  }
}

}  // namespace

std::string PlannedJob::problem_text() const { return fmt::format("{}", fmt::join(problems, "\n")); }

BatchPlan plan_batch(const JobBatch& batch, const BatchPaths& paths, int threads, Session& session, bool quiet) {
  BatchPlan plan;
  ProgressLine line("planning", quiet);
  const std::atomic<bool>* stop = watch_interrupts();
  for (const BatchJob& job : batch.jobs) {
    if (stop->load()) throw Error(ErrorCode::interrupted, "stopped while planning; nothing was run");
    line.update({plan.jobs.size(), batch.jobs.size(), 0, 0, job.name, false, "jobs"});
    plan.jobs.push_back(plan_job(job, paths, threads, session));
  }
  if (batch.share_statistics) share_passes(paths, threads, session.registry, plan);
  return plan;
}

}  // namespace quant::cli
