#include "quant/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "pipeline/batch.h"
#include "pipeline/committer.h"
#include "pipeline/files.h"
#include "pipeline/finish.h"
#include "pipeline/journal.h"
#include "quant/error.h"
#include "thread_pool.h"

namespace quant {
namespace {

// Large enough that the pause between batches does not show, small enough that a kill loses little.
constexpr std::uint64_t kBatchBytes = 256U << 20U;

std::filesystem::path partial_path(std::filesystem::path output) {
  if (!output.has_filename()) output = output.parent_path();  // "out/" means "out"
  output += ".partial";
  return output;
}

// True if an interrupted run left everything but the last rename.
bool is_complete(const std::filesystem::path& partial, const Plan& plan) {
  if (Journal::exists(partial) || !std::filesystem::exists(partial / "report.json")) return false;
  return report_from_json(read_text_file(partial / "report.json"), (partial / "report.json").string()).plan_identity ==
         plan.identity;
}

// One run's state, from the partial directory to the final name.
class Run {
 public:
  Run(const Plan& plan, const RunOptions& options)
      : plan_(plan), options_(options), partial_(partial_path(options.output)) {}

  RunReport execute() {
    check();
    const bool resumed = open_partial();
    if (resumed && is_complete(partial_, plan_)) return finish_rename();
    journal_ = std::make_unique<Journal>(partial_, run_fingerprint(plan_), resumed);
    results_ = journal_->finished();
    open_writers();
    process_items();
    return finish();
  }

 private:
  void check() const {
    if (!plan_.problems.empty()) {
      throw Error(ErrorCode::usage, "the plan has problems and cannot run: " + plan_.problems.front());
    }
    if (std::filesystem::exists(std::filesystem::symlink_status(options_.output))) {
      throw Error(ErrorCode::io, options_.output.string() + " exists already",
                  "choose another output, or remove it first");
    }
  }

  // Creates the partial directory; true if there was one to resume.
  bool open_partial() const {
    std::error_code failed;
    if (std::filesystem::exists(partial_)) {
      if (options_.resume) return true;
      if (!options_.overwrite_partial) {
        throw Error(ErrorCode::io, partial_.string() + " is left from an unfinished run",
                    "--resume continues it, --overwrite-partial starts over");
      }
      std::filesystem::remove_all(partial_, failed);
    }
    std::filesystem::create_directories(partial_, failed);
    if (failed) throw_io_error("cannot create", partial_, failed.value());
    const auto space = std::filesystem::space(partial_, failed);
    if (!failed && space.available < plan_.output_bytes) {
      std::filesystem::remove(partial_, failed);
      throw Error(
          ErrorCode::io,
          fmt::format("{} has {:.1f} MB free, the output needs {:.1f} MB", partial_.parent_path().string(),
                      static_cast<double>(space.available) / 1e6, static_cast<double>(plan_.output_bytes) / 1e6),
          "free some space or choose another output");
    }
    return false;
  }

  void open_writers() {
    const Container& container = *plan_.registry->container(plan_.options.container);
    for (const PlannedShard& shard : plan_.shards) {
      const auto path = partial_ / shard.file;
      // A kill may have come before this file was begun, or before anything in it counted.
      bool any_finished = false;
      for (const auto& [key, result] : results_) any_finished = any_finished || &plan_.shards[key.first] == &shard;
      writers_.push_back(container.create(path, shard.tensors, plan_.metadata, any_finished));
    }
  }

  std::uint64_t source_bytes(const ItemKey& key) const {
    const PlannedItem& item = plan_.shards[key.first].items[key.second];
    return item.quantized ? plan_.linears[item.index].weight->bytes : plan_.copies[item.index].tensor->bytes;
  }

  std::vector<ItemKey> open_items() {
    std::vector<ItemKey> open;
    for (std::size_t s = 0; s < plan_.shards.size(); ++s) {
      for (std::size_t i = 0; i < plan_.shards[s].items.size(); ++i) {
        const ItemKey key{s, i};
        progress_.bytes_total += source_bytes(key);
        ++progress_.tensors_total;
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

  void tick() {
    memory_ = std::max(memory_, anonymous_memory());
    progress_.bytes_done = done_.load();
    progress_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    if (options_.progress) options_.progress(progress_);
  }

  void process_items() {
    const std::vector<ItemKey> open = open_items();
    ThreadPool pool(plan_.options.threads);
    BatchRunner runner(plan_, writers_, pool, options_.stop);
    Committer committer(*journal_, writers_);
    for (std::size_t next = 0; next < open.size();) {
      std::vector<ItemKey> batch;
      for (std::uint64_t bytes = 0; next < open.size() && (batch.empty() || bytes < kBatchBytes); ++next) {
        bytes += source_bytes(open[next]);
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
      tick();
      if (options_.stop != nullptr && options_.stop->load()) {
        committer.flush();
        throw Error(ErrorCode::interrupted,
                    fmt::format("stopped after {} of {} tensors", progress_.tensors_done, progress_.tensors_total),
                    "run the same command with --resume to continue");
      }
    }
    committer.flush();
    report_bad_weights(runner.bad_weights());
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
    return item.quantized ? plan_.linears[item.index].shape.module : plan_.copies[item.index].tensor->name;
  }

  RunReport finish() {
    RunReport report = assemble_report(plan_, results_);
    report.machine = describe_machine(plan_.options.threads);
    report.started = started_;
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    report.peak_memory_measured = std::max(memory_, anonymous_memory());
    writers_.clear();
    write_small_files(plan_, report, partial_);
    journal_->remove();
    rename_to_output();
    return report;
  }

  // Everything was written and only the rename is missing.
  RunReport finish_rename() const {
    RunReport report = report_from_json(read_text_file(partial_ / "report.json"), (partial_ / "report.json").string());
    rename_to_output();
    return report;
  }

  void rename_to_output() const {
    sync_directory(partial_);
    std::error_code failed;
    std::filesystem::rename(partial_, options_.output, failed);
    if (failed) throw_io_error("cannot rename " + partial_.string() + " to", options_.output, failed.value());
    const auto parent = options_.output.parent_path();
    sync_directory(parent.empty() ? std::filesystem::path(".") : parent);
  }

  const Plan& plan_;
  const RunOptions& options_;
  const std::filesystem::path partial_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const std::string started_ = utc_now();
  std::unique_ptr<Journal> journal_;
  std::map<ItemKey, ItemResult> results_;
  std::vector<std::unique_ptr<ContainerWriter>> writers_;
  std::atomic<std::uint64_t> done_{0};
  std::uint64_t memory_ = 0;
  RunProgress progress_;
};

}  // namespace

RunReport run_plan(const Plan& plan, const RunOptions& options) { return Run(plan, options).execute(); }

}  // namespace quant
