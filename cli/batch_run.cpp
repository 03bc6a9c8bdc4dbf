#include "batch_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "batch_files.h"
#include "child_process.h"
#include "errors.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "quant/error.h"
#include "ready_recipes.h"
#include "units.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kTick = std::chrono::milliseconds(50);
constexpr auto kLook = std::chrono::milliseconds(1000);  ///< at the claims of other processes
constexpr std::uint64_t kChildMemory = 64'000'000;       ///< of the program itself, beside what plans count

std::string utc_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string stamp_of(const fs::path& file) {
  std::error_code failed;
  const auto time = fs::last_write_time(file, failed);
  return failed ? "" : fmt::format("{} {}", fs::file_size(file, failed), time.time_since_epoch().count());
}

// Whether a process works in a partial directory: it locks it.
bool is_locked(const fs::path& partial) {
  const int directory = ::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return false;
  const bool locked = ::flock(directory, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(directory);
  return locked;
}

// Signals that end a process from outside: what it had finished is kept, and goes on.
bool is_outside(int signal) {
  return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGXCPU;
}

/// A job, or a pass over data that jobs wait for.
struct Task {
  enum class State { open, running, settled };
  std::string name;
  const PlannedJob* job = nullptr;
  const SharedPass* pass = nullptr;
  State state = State::open;
  std::uint64_t memory = 0;
  int threads = 1;
  double estimate = 0;  ///< seconds

  std::unique_ptr<ChildProcess> child;
  bool converting = false;
  bool foreign = false;  ///< its output is there and not its own
  JobOutcome outcome;
  std::string failed_before;  ///< identity of a failure that was there when this call began

  const std::string& fingerprint() const { return job != nullptr ? job->fingerprint : pass->recipe_text; }
  const fs::path output() const { return job != nullptr ? fs::path(job->job->output) : pass->output; }
};

std::string identity_of(const JobOutcome& outcome) {
  return fmt::format("{} {} {}", outcome.host, outcome.finished, outcome.fingerprint);
}

class BatchRunner {
 public:
  BatchRunner(const JobBatch& batch, const BatchPlan& plan, const BatchPaths& paths, const BatchRunOptions& options)
      : batch_(batch),
        plan_(plan),
        paths_(paths),
        options_(options),
        claims_(paths.state, options.times),
        line_("batch", options.quiet),
        stop_(watch_interrupts()) {
    for (const SharedPass& pass : plan.passes) add_pass(pass);
    for (const PlannedJob& job : plan.jobs) {
      if (!job.complete && job.problems.empty()) add_job(job);
    }
  }

  bool run() {
    write_summary();
    while (!stop_->load()) {
      reap();
      drop_lost();
      start_what_fits();
      if (is_done()) break;
      draw();
      std::this_thread::sleep_for(kTick);
    }
    const bool interrupted = stop_->load();
    if (interrupted) stop_children();
    line_.clear();
    remove_passes();
    write_summary();
    return interrupted;
  }

 private:
  void add_pass(const SharedPass& pass) {
    Task task;
    task.name = pass.name;
    task.pass = &pass;
    task.memory = pass.peak_memory > 0 ? pass.peak_memory + kChildMemory : 0;
    task.threads = pass.threads;
    task.estimate = pass.seconds;
    tasks_.push_back(std::move(task));
  }

  void add_job(const PlannedJob& job) {
    Task task;
    task.name = job.job->name;
    task.job = &job;
    task.memory = job.peak_memory > 0 ? job.peak_memory + kChildMemory : 0;
    task.threads = job.threads;
    task.estimate = job.seconds;
    const auto outcome = read_outcome(paths_, task.name);
    if (outcome && outcome->state == JobState::failed) task.failed_before = identity_of(*outcome);
    tasks_.push_back(std::move(task));
  }

  bool is_done() const {
    bool open = false;
    for (const Task& task : tasks_) {
      if (task.state == Task::State::running) return false;
      open = open || (task.state == Task::State::open && task.job != nullptr);
    }
    if (!open) return true;
    // What is open could be begun, is claimed by others, or waits for a pass that is.
    return !options_.wait && looked_ && !might_start_;
  }

  void start_what_fits() {
    if (Clock::now() < next_look_) return;
    next_look_ = Clock::now() + kLook;
    might_start_ = false;
    for (Task& task : tasks_) {
      if (task.state != Task::State::open) continue;
      if (task.pass != nullptr && !is_wanted(*task.pass)) continue;
      if (!fits(task)) {
        might_start_ = true;
        continue;
      }
      if (task.job != nullptr && waits_for_pass(task)) continue;
      if (stop_->load()) return;
      try_start(task);
      might_start_ = might_start_ || task.state == Task::State::running;
    }
    looked_ = true;
  }

  // A single task always fits: the plan's figures are the best that there is, not a reason to do nothing.
  bool fits(const Task& task) const {
    std::uint64_t memory = 0;
    int threads = 0;
    int count = 0;
    bool unknown = task.memory == 0;
    for (const Task& other : tasks_) {
      if (other.state != Task::State::running) continue;
      memory += other.memory;
      threads += other.threads;
      ++count;
      unknown = unknown || other.memory == 0;
    }
    if (count == 0) return true;
    if (options_.jobs > 0 && count >= options_.jobs) return false;
    if (threads + task.threads > options_.threads) return false;
    return options_.memory == 0 || (!unknown && memory + task.memory <= options_.memory);
  }

  Task* pass_of(const Task& task) {
    if (task.job == nullptr || task.job->pass.empty()) return nullptr;
    const auto found =
        std::find_if(tasks_.begin(), tasks_.end(), [&](const Task& other) { return other.name == task.job->pass; });
    return found == tasks_.end() ? nullptr : &*found;
  }

  bool is_wanted(const SharedPass& pass) const {
    return std::any_of(tasks_.begin(), tasks_.end(), [&](const Task& task) {
      return task.job != nullptr && task.job->pass == pass.name && task.state == Task::State::open;
    });
  }

  bool waits_for_pass(const Task& task) {
    Task* pass = pass_of(task);
    if (pass == nullptr || pass->state == Task::State::settled) return false;
    if (!is_there(pass->pass->statistics)) return true;
    pass->state = Task::State::settled;  // another process has made it
    return false;
  }

  void try_start(Task& task) {
    try {
      if (!claims_.acquire(task.name)) return;
      if (task.pass != nullptr) {
        begin_pass(task);
      } else {
        begin_job(task);
      }
    } catch (const Error& error) {
      fail(task, error.what(), error.hint(), exit_code(error.code()));
    }
    if (task.state != Task::State::running) claims_.release(task.name);
  }

  void begin_pass(Task& task) {
    if (is_there(task.pass->statistics)) {
      task.state = Task::State::settled;
      return;
    }
    const auto before = read_outcome(paths_, task.name);
    if (before && before->state == JobState::failed && !options_.retry_failed) {
      task.state = Task::State::settled;  // its jobs make passes of their own, and tell what is wrong
      return;
    }
    if (is_locked(partial_of(task.output()))) return;
    std::error_code ignored;
    fs::remove_all(task.pass->output, ignored);
    write_file(task.pass->recipe, task.pass->recipe_text);
    begin(task, before, "");
    start_child(task, task.pass->arguments);
  }

  void begin_job(Task& task) {
    const auto before = read_outcome(paths_, task.name);
    const bool same = before && before->fingerprint == task.fingerprint();
    const auto& convert = task.job->job->convert;
    const bool all_there = is_there(task.output()) && (!convert || is_there(convert->output));
    if (same && before->state == JobState::complete && all_there) return settle(task);
    if (same && before->state == JobState::failed) {
      const bool ours = options_.retry_failed && identity_of(*before) == task.failed_before;
      if (!ours) return settle(task);
    }
    if (!same && is_there(task.output())) {
      task.foreign = true;
      throw Error(ErrorCode::io, fmt::format("{} exists, and this job has not made it", task.output().string()),
                  "remove it, or choose another output");
    }
    if (is_locked(partial_of(task.output()))) return;  // a killed batch's child takes a moment to die
    const Task* pass = pass_of(task);
    const bool shared = pass != nullptr && is_there(pass->pass->statistics);
    begin(task, before, shared ? stamp_of(pass->pass->statistics) : "");
    task.outcome.shared_statistics = shared;
    run_or_convert(task, shared ? pass->pass->statistics : fs::path());
  }

  void begin(Task& task, const std::optional<JobOutcome>& before, const std::string& attempt) {
    const bool same = before && before->fingerprint == task.fingerprint() && before->attempt == attempt;
    resumes_ = same;
    task.converting = false;
    task.foreign = false;
    task.outcome = JobOutcome{};
    if (same && before->state != JobState::failed) {
      task.outcome.seconds = before->seconds;
      task.outcome.peak_memory = before->peak_memory;
    }
    task.outcome.job = task.name;
    task.outcome.fingerprint = task.fingerprint();
    task.outcome.attempt = attempt;
    task.outcome.state = JobState::running;
    task.outcome.host = host_name();
    write_outcome(paths_, task.outcome);
  }

  void run_or_convert(Task& task, const fs::path& statistics) {
    const BatchJob& job = *task.job->job;
    const bool made = is_there(task.output());
    bool evaluated = true;
    if (made && wants_evaluation(job)) evaluated = std::isfinite(read_figures(job.output).perplexity);
    if (made && evaluated) {
      after_run(task);
    } else {
      start_child(task,
                  statistics.empty() ? run_arguments(job, task.threads) : run_arguments(job, task.threads, statistics));
    }
  }

  void start_child(Task& task, std::vector<std::string> arguments) {
    if (!task.converting) {
      const bool partial = is_there(partial_of(task.output())) || is_there(task.output());
      if (partial) arguments.emplace_back(resumes_ ? "--resume" : "--overwrite-partial");
    }
    arguments.emplace_back("--quiet");
    arguments.emplace_back("--json");
    const fs::path log = paths_.log(task.name);
    std::ofstream(log, std::ios::app) << utc_text() << " " << host_name() << ": quant "
                                      << fmt::format("{}", fmt::join(arguments, " ")) << "\n";
    task.child = std::make_unique<ChildProcess>(arguments, out_of(task), log);
    task.state = Task::State::running;
  }

  fs::path out_of(const Task& task) const { return paths_.state / (task.name + ".out"); }

  // The checkpoint is complete; it may still have to be converted.
  void after_run(Task& task) {
    const auto& convert = task.job->job->convert;
    if (convert && !is_there(convert->output)) {
      task.converting = true;
      start_child(task, convert_arguments(*task.job->job, task.threads));
      return;
    }
    task.outcome.figures = read_figures(task.output());
    // The batch that ran it was killed before it could say so.
    if (task.outcome.peak_memory == 0) {
      task.outcome.peak_memory = task.outcome.figures->peak_memory;
      task.outcome.seconds = task.outcome.figures->seconds;
    }
    if (convert) task.outcome.converted_bytes = bytes_of(convert->output);
    finish(task, JobState::complete);
  }

  void reap() {
    for (Task& task : tasks_) {
      if (task.state != Task::State::running || !task.child->ended()) continue;
      const ChildEnd end = task.child->end();
      task.child.reset();
      task.outcome.seconds += end.seconds;
      task.outcome.peak_memory = std::max(task.outcome.peak_memory, end.peak_memory);
      next_look_ = Clock::now();
      try {
        take_end(task, end);
      } catch (const Error& error) {
        fail(task, error.what(), error.hint(), exit_code(error.code()));
      }
      if (task.state != Task::State::running) claims_.release(task.name);
    }
  }

  void take_end(Task& task, const ChildEnd& end) {
    task.outcome.exit_code = end.exit_code;
    if (end.exit_code == 0) {
      if (task.pass != nullptr) {
        end_pass(task);
      } else if (task.converting) {
        task.converting = false;
        after_run(task);
      } else {
        after_run(task);
      }
      return;
    }
    if (end.signal != 0) {
      task.outcome.error = fmt::format("killed by signal {} ({})", end.signal, ::strsignal(end.signal));
      if (end.signal == SIGKILL) {
        task.outcome.hint = "perhaps for lack of memory: give it less with 'memory', or run fewer jobs at once";
      }
      finish(task, is_outside(end.signal) ? JobState::interrupted : JobState::failed);
      return;
    }
    take_error(task);
    finish(task, end.exit_code == 130 ? JobState::interrupted : JobState::failed);
  }

  // With --json a command says what went wrong on its output.
  void take_error(Task& task) const {
    const Json out = Json::parse(text_of(out_of(task)), nullptr, false);
    if (out.is_object() && out.contains("error") && out["error"].is_object()) {
      task.outcome.error = out["error"].value("message", "");
      task.outcome.hint = out["error"].value("hint", "");
    }
    if (task.outcome.error.empty()) {
      task.outcome.error =
          fmt::format("ended with exit code {}; see {}", task.outcome.exit_code, paths_.log(task.name).string());
    }
  }

  void end_pass(Task& task) {
    std::error_code ignored;
    fs::remove_all(task.pass->output, ignored);
    finish(task, JobState::complete);
  }

  void finish(Task& task, JobState state) {
    std::error_code ignored;
    fs::remove(out_of(task), ignored);
    task.outcome.state = state;
    task.outcome.finished = utc_text();
    task.state = Task::State::settled;
    if (state == JobState::complete) task.outcome.error.clear(), task.outcome.hint.clear();
    // What another process has taken over is its to tell.
    if (!has_lost(task)) write_outcome(paths_, task.outcome);
    tell(task);
    if (task.job != nullptr) write_summary();
  }

  void fail(Task& task, const std::string& error, const std::string& hint, int code) {
    task.outcome.job = task.name;
    // With its fingerprint the next call would take the output for the job's own.
    task.outcome.fingerprint = task.foreign ? std::string() : task.fingerprint();
    task.outcome.host = host_name();
    task.outcome.error = error;
    task.outcome.hint = hint;
    task.outcome.exit_code = code;
    try {
      finish(task, JobState::failed);
    } catch (const Error& second) {  // the state cannot be written: nothing is left but to say so
      task.state = Task::State::settled;
      std::fputs(fmt::format("{}: {}\n", task.name, printable(second.what())).c_str(), stderr);
    }
  }

  void settle(Task& task) { task.state = Task::State::settled; }

  void tell(const Task& task) {
    if (options_.quiet) return;
    line_.clear();
    const std::string name =
        task.pass != nullptr ? "statistics for " + counted(task.pass->jobs.size(), "job") : task.name;
    std::string text =
        fmt::format("{}: {} after {}", name, to_string(task.outcome.state), human_seconds(task.outcome.seconds));
    if (!task.outcome.error.empty()) {
      text += ": " + printable(task.outcome.error.substr(0, task.outcome.error.find('\n')));
    }
    std::fputs((text + "\n").c_str(), stderr);
  }

  // A look that fails says nothing: the next one tells.
  bool has_lost(const Task& task) const {
    try {
      return claims_.lost(task.name);
    } catch (const Error&) {
      return false;
    }
  }

  // A process that slept for longer than claims last is not to go on beside the one that took over.
  void drop_lost() {
    if (Clock::now() < next_check_) return;
    next_check_ = Clock::now() + options_.times.heartbeat;
    for (Task& task : tasks_) {
      if (task.state != Task::State::running || !has_lost(task)) continue;
      task.child.reset();
      claims_.release(task.name);
      task.state = Task::State::open;
      if (!options_.quiet) std::fputs((task.name + ": another process has taken over\n").c_str(), stderr);
    }
  }

  void stop_children() {
    for (const Task& task : tasks_) {
      if (task.state == Task::State::running) task.child->signal(SIGTERM);
    }
    while (std::any_of(tasks_.begin(), tasks_.end(),
                       [](const Task& task) { return task.state == Task::State::running; })) {
      // A second Ctrl-C ends this process at once, and the kernel then ends the children.
      for (Task& task : tasks_) task.converting = false;
      reap_stopped();
      std::this_thread::sleep_for(kTick);
    }
  }

  void reap_stopped() {
    for (Task& task : tasks_) {
      if (task.state != Task::State::running || !task.child->ended()) continue;
      const ChildEnd end = task.child->end();
      task.child.reset();
      task.outcome.seconds += end.seconds;
      task.outcome.peak_memory = std::max(task.outcome.peak_memory, end.peak_memory);
      task.outcome.exit_code = end.exit_code;
      if (end.exit_code != 0 && end.exit_code != 130 && end.signal == 0) {
        take_error(task);
        finish(task, JobState::failed);
      } else {
        finish(task, JobState::interrupted);
      }
      claims_.release(task.name);
    }
  }

  // Statistics are large; they are kept as long as a job may still learn from them.
  void remove_passes() {
    for (Task& task : tasks_) {
      if (task.pass == nullptr) continue;
      const bool needed = std::any_of(task.pass->jobs.begin(), task.pass->jobs.end(), [&](std::size_t i) {
        const auto outcome = read_outcome(paths_, plan_.jobs[i].job->name);
        return !outcome || (outcome->state != JobState::complete && outcome->state != JobState::failed);
      });
      if (needed || !claims_.acquire(task.name)) continue;
      std::error_code ignored;
      for (const fs::path& file :
           {task.pass->statistics, task.pass->recipe, paths_.outcome(task.name), paths_.log(task.name)}) {
        fs::remove(file, ignored);
      }
      claims_.release(task.name);
    }
    const BatchSummary summary = batch_summary(batch_, plan_, claims_);
    const bool ended =
        summary.count(JobState::running) + summary.count(JobState::interrupted) + summary.count(JobState::waiting) == 0;
    if (ended) remove_left_passes();
  }

  // Of earlier calls, which other jobs were left for.
  void remove_left_passes() {
    std::map<std::string, std::vector<fs::path>> left;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(paths_.state, ignored)) {
      const std::string file = entry.path().filename().string();
      if (!file.starts_with(".statistics-") || file.find(".claim.") != std::string::npos) continue;
      left[file.substr(0, file.find('.', 1))].push_back(entry.path());
    }
    for (const auto& [pass, files] : left) {
      if (!claims_.acquire(pass)) continue;  // another process makes it, or another batch in the same folder
      for (const fs::path& file : files) fs::remove_all(file, ignored);
      claims_.release(pass);
    }
  }

  // What the jobs made stays what it is where the summary cannot be written.
  void write_summary() {
    try {
      quant::write_summary(paths_, batch_summary(batch_, plan_, claims_));
    } catch (const Error& error) {
      line_.clear();
      std::fputs(fmt::format("no summary: {}\n", printable(error.what())).c_str(), stderr);
    }
  }

  void draw() {
    if (!line_.enabled() || Clock::now() < next_draw_) return;
    next_draw_ = Clock::now() + std::chrono::milliseconds(200);
    double done = 0;
    double all = 0;
    std::string names;
    std::size_t settled = plan_.jobs.size();
    for (const Task& task : tasks_) {
      const double estimate = std::max(task.estimate, 1e-3);
      all += estimate;
      if (task.state == Task::State::settled) done += estimate;
      if (task.job != nullptr && task.state != Task::State::settled) --settled;
      if (task.state != Task::State::running) continue;
      // The estimate of a task says how it compares with others, not how long it takes.
      done += std::min(task.child->seconds() / std::max(seconds_per_estimate_, 1e-9), 0.95 * estimate);
      names += (names.empty() ? "" : ", ") + task.name;
    }
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    ProgressState state;
    state.bytes = false;
    state.unit = "jobs";
    state.done = settled;
    state.total = plan_.jobs.size();
    if (done > 0) seconds_per_estimate_ = elapsed / done;
    state.current = fmt::format(
        "{} elapsed{}  {}", human_seconds(elapsed),
        done > 0 ? fmt::format(", about {} left", human_seconds(elapsed * (all - done) / done)) : "", names);
    line_.update(state);
  }

  const JobBatch& batch_;
  const BatchPlan& plan_;
  const BatchPaths& paths_;
  const BatchRunOptions& options_;
  Claims claims_;
  ProgressLine line_;
  const std::atomic<bool>* stop_;
  std::vector<Task> tasks_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_look_ = start_;
  Clock::time_point next_check_ = start_;
  Clock::time_point next_draw_ = start_;
  double seconds_per_estimate_ = 1;
  bool looked_ = false;
  bool might_start_ = false;
  bool resumes_ = false;
};

}  // namespace

bool run_batch(const JobBatch& batch, const BatchPlan& plan, const BatchPaths& paths, const BatchRunOptions& options) {
  return BatchRunner(batch, plan, paths, options).run();
}

BatchSummary batch_summary(const JobBatch& batch, const BatchPlan& plan, const Claims& claims) {
  std::map<std::string, std::string> problems;
  for (const PlannedJob& job : plan.jobs) {
    if (!job.problems.empty()) problems[job.job->name] = job.problem_text();
  }
  return summarize_batch(batch, problems, claims);
}

}  // namespace quant::cli
