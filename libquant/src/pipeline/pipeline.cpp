#include "quant/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "output/files.h"
#include "output/partial_directory.h"
#include "pipeline/batch.h"
#include "pipeline/calibrated_run.h"
#include "pipeline/committer.h"
#include "pipeline/finish.h"
#include "pipeline/finite_check.h"
#include "pipeline/imported_statistics.h"
#include "pipeline/journal.h"
#include "pipeline/run_state.h"
#include "pipeline/sensitivity_check.h"
#include "pipeline/statistics_keeper.h"
#include "plan/resources.h"
#include "quant/error.h"
#include "quant/sparsity_profile.h"
#include "thread_pool.h"

namespace quant {
namespace {

// Large enough that the pause between batches does not show, small enough that a kill loses little.
constexpr std::uint64_t kBatchBytes = 256U << 20U;

// One run's state, from the partial directory to the final name.
class Run {
 public:
  Run(const Plan& plan, const RunOptions& options)
      : plan_(runnable(plan)),
        options_(options),
        directory_(options.output, existing(options), "--resume continues it, --overwrite-partial starts over") {}

  RunReport execute() {
    if (directory_.resumed() && !Journal::exists(partial())) {
      if (std::filesystem::exists(partial() / kReport)) return finish_rename();
      // A run starts its journal before any other file: without one, these are not a run's files.
      throw Error(ErrorCode::io, partial().string() + " has no journal: no run can be resumed from it",
                  "--overwrite-partial deletes its files and starts over, or choose another output");
    }
    check_space();
    check_statistics_place();
    journal_ = std::make_unique<Journal>(partial(), plan_);
    results_ = journal_->finished();
    open_writers();
    process_items();
    return finish();
  }

 private:
  static constexpr const char* kReport = "report.json";

  static const Plan& runnable(const Plan& plan) {
    for (std::size_t m = 0; m < plan.recipe.modifiers.size(); ++m) {
      const RecipeModifier& modifier = plan.recipe.modifiers[m];
      const bool acts = std::any_of(plan.linears.begin(), plan.linears.end(), [&](const PlannedLinear& linear) {
        return std::any_of(linear.pruning.begin(), linear.pruning.end(),
                           [&](const PlannedPruning& pruning) { return pruning.modifier == m; });
      });
      if (!acts || sparsity_profile(modifier).empty()) continue;
      throw Error(ErrorCode::usage, modifier.where.to_string() + ": the sparsity_profile is not resolved",
                  "call resolve_sparsity_profile and plan the recipe that with_sparsities makes of it");
    }
    if (plan.problems.empty()) return plan;
    throw Error(ErrorCode::usage, "the plan has problems and cannot run: " + plan.problems.front());
  }

  static PartialDirectory::Existing existing(const RunOptions& options) {
    if (options.resume) return PartialDirectory::Existing::resume;
    return options.overwrite_partial ? PartialDirectory::Existing::discard : PartialDirectory::Existing::refuse;
  }

  const std::filesystem::path& partial() const { return directory_.path(); }

  // A generous guess: the reports' fixed parts, a few kilobytes per layer, and the arrays.
  std::uint64_t report_bytes() const {
    std::uint64_t bytes = 1U << 20U;
    for (const PlannedLinear& linear : plan_.linears) bytes += 16384 + sizeof(float) * linear.shape.rows;
    return bytes;
  }

  void check_space() const {
    if (directory_.resumed()) return;
    const std::uint64_t temporary = plan_.calibration ? plan_.calibration->disk_bytes : 0;
    try {
      directory_.require_space(plan_.output_bytes + report_bytes() + temporary);
    } catch (const Error&) {
      directory_.remove();
      throw;
    }
  }

  void check_statistics_place() const {
    if (plan_.work == nullptr) return;
    try {
      StatisticsKeeper(plan_, partial()).require_place(directory_.resumed());
    } catch (const Error&) {
      if (!directory_.resumed()) directory_.remove();
      throw;
    }
  }

  void open_writers() {
    const Container& container = *plan_.registry->container(plan_.options.container);
    for (const PlannedShard& shard : plan_.shards) {
      const auto path = partial() / shard.file;
      // A kill may have come before this file was begun, or before anything in it counted.
      bool any_finished = false;
      for (const auto& [key, result] : results_) any_finished = any_finished || &plan_.shards[key.first] == &shard;
      writers_.push_back(container.create(path, shard.tensors, plan_.metadata, any_finished));
    }
  }

  std::uint64_t source_bytes(const ItemKey& key) const {
    const PlannedItem& item = plan_.shards[key.first].items[key.second];
    if (item.cache) return 0;
    return item.quantized ? plan_.linears[item.index].weight->bytes : plan_.copies[item.index].tensor->bytes;
  }

  bool is_pruned(const ItemKey& key) const {
    const PlannedItem& item = plan_.shards[key.first].items[key.second];
    return item.quantized && !plan_.linears[item.index].pruning.empty();
  }

  std::vector<ItemKey> open_items() {
    std::vector<ItemKey> open;
    for (std::size_t s = 0; s < plan_.shards.size(); ++s) {
      for (std::size_t i = 0; i < plan_.shards[s].items.size(); ++i) {
        const ItemKey key{s, i};
        progress_.bytes_total += source_bytes(key);
        ++progress_.tensors_total;
        if (is_calibrated_item(plan_, plan_.shards[s].items[i])) continue;
        if (!results_.contains(key)) {
          open.push_back(key);
          continue;
        }
        progress_.bytes_resumed += source_bytes(key);
        ++progress_.tensors_done;
      }
    }
    done_ = progress_.bytes_resumed;
    return open;
  }

  // Called at every opportunity; passes on ten a second, and the last.
  void tick(bool last = false) {
    const auto now = std::chrono::steady_clock::now();
    if (!last && now - ticked_ < std::chrono::milliseconds(100)) return;
    ticked_ = now;
    memory_ = std::max(memory_, anonymous_memory());
    progress_.bytes_done = done_.load();
    progress_.seconds = std::chrono::duration<double>(now - start_).count();
    if (options_.progress) options_.progress(progress_);
  }

  void process_items() {
    const std::vector<ItemKey> open = open_items();
    ThreadPool pool(plan_.options.threads);
    if (plan_.options.sensitivities != nullptr && results_.empty()) {
      progress_.current = "checking sensitivities";
      require_sound_sensitivities(
          plan_, pool, [this] { tick(); }, options_.stop);
    }
    // A run that goes on has passed this.
    if (plan_.work != nullptr && results_.empty()) {
      progress_.current = "checking weights";
      require_finite_weights(
          plan_, pool, [this] { tick(); }, options_.stop);
      if (plan_.work->statistics != nullptr) {
        progress_.current = "checking statistics";
        require_sound_statistics(
            plan_, [this] { tick(); }, options_.stop);
      }
    }
    BatchRunner runner(plan_, writers_, pool, options_.stop);
    Committer committer(*journal_, writers_);
    for (std::size_t next = 0; next < open.size();) {
      std::vector<ItemKey> batch;
      for (std::uint64_t bytes = 0; next < open.size() && (batch.empty() || bytes < kBatchBytes); ++next) {
        bytes += source_bytes(open[next]) * (is_pruned(open[next]) ? kBatchBytes / kPrunedBytes : 1);
        batch.push_back(open[next]);
      }
      progress_.current = name_of(batch.front());
      std::map<ItemKey, ItemResult> finished = runner.run(batch, done_, [this] { tick(); });
      std::vector<std::pair<ItemKey, const ItemResult*>> commit;
      for (auto& [key, result] : finished) {
        commit.emplace_back(key, &results_.emplace(key, std::move(result)).first->second);
      }
      progress_.tensors_done += commit.size();
      if (!commit.empty()) committer.add(std::move(commit));
      tick(next == open.size());
      if (options_.stop != nullptr && options_.stop->load()) {
        committer.flush();
        throw Error(ErrorCode::interrupted,
                    fmt::format("stopped after {} of {} tensors", progress_.tensors_done, progress_.tensors_total),
                    "run the same command with --resume to continue");
      }
    }
    committer.flush();
    report_bad_weights(runner.bad_weights());
    if (plan_.work != nullptr) calibrate(pool, committer);
  }

  void calibrate(ThreadPool& pool, Committer& committer) {
    CalibratedRunContext context;
    context.plan = &plan_;
    context.directory = partial();
    context.writers = &writers_;
    context.pool = &pool;
    context.committer = &committer;
    context.results = &results_;
    context.progress = &progress_;
    context.stop = options_.stop;
    context.peak_memory = &memory_;
    context.warnings = &warnings_;
    context.tick = [this] { tick(); };
    context.done = [this](const ItemKey& key) {
      done_ += source_bytes(key);
      ++progress_.tensors_done;
    };
    block_reports_ = run_calibrated(context);
    tick(true);
  }

  static void report_bad_weights(std::vector<std::string> sentences) {
    if (sentences.empty()) return;
    std::sort(sentences.begin(), sentences.end());
    std::string text;
    for (const std::string& sentence : sentences) text += (text.empty() ? "" : "\n") + sentence;
    throw Error(ErrorCode::numerical, text, "repair the checkpoint, or add these modules to the recipe's 'ignore'");
  }

  std::string name_of(const ItemKey& key) const {
    const PlannedItem& item = plan_.shards[key.first].items[key.second];
    if (item.cache) return plan_.caches[item.index].module;
    return item.quantized ? plan_.linears[item.index].shape.module : plan_.copies[item.index].tensor->name;
  }

  RunReport finish() {
    RunReport report = assemble_report(plan_, std::move(results_));
    if (report.calibration) report.calibration->blocks = std::move(block_reports_);
    report.warnings.insert(report.warnings.end(), warnings_.begin(), warnings_.end());
    report.machine = describe_machine(plan_.options.threads);
    report.started = started_;
    report.fingerprint = run_fingerprint(plan_);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    report.peak_memory_measured = std::max(memory_, anonymous_memory());
    writers_.clear();
    write_small_files(plan_, report, partial());
    Journal::remove(partial());
    remove_state(partial());
    directory_.commit();
    return report;
  }

  // A run that was stopped when it had written everything, before the last rename.
  RunReport finish_rename() const {
    const std::string name = (partial() / kReport).string();
    RunReport report = report_from_json(read_text_file(name), name);
    if (report.fingerprint != run_fingerprint(plan_)) {
      throw Error(ErrorCode::io,
                  partial().string() +
                      " was made by another recipe, other options, another version, or the model's files, "
                      "or files that the recipe names, have changed since",
                  "start over with --overwrite-partial, or choose another output");
    }
    Journal::remove(partial());
    remove_state(partial());
    directory_.commit();
    return report;
  }

  const Plan& plan_;
  const RunOptions& options_;
  const PartialDirectory directory_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point ticked_{};
  const std::string started_ = utc_now();
  std::unique_ptr<Journal> journal_;
  std::map<ItemKey, ItemResult> results_;
  std::vector<std::unique_ptr<ContainerWriter>> writers_;
  std::atomic<std::uint64_t> done_{0};
  std::uint64_t memory_ = 0;
  std::vector<BlockReport> block_reports_;
  std::vector<std::string> warnings_;  // that only running gives
  RunProgress progress_;
};

}  // namespace

RunReport run_plan(const Plan& plan, const RunOptions& options) { return Run(plan, options).execute(); }

}  // namespace quant
