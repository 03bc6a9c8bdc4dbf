#include "parallel_tasks.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "quant/error.h"
#include "thread_pool.h"

namespace quant {
namespace {

using Clock = std::chrono::steady_clock;

class Monitor {
 public:
  Monitor(std::span<const std::uint64_t> costs, const ScanOptions& options) : costs_(costs), options_(options) {
    for (const std::uint64_t cost : costs) total_ += cost;
  }

  bool quits() const { return failed_.load(std::memory_order_relaxed) || stopped(); }
  bool stopped() const { return options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed); }

  void finish(std::size_t task) {
    if (!options_.progress) return;
    const std::lock_guard lock(mutex_);
    done_ += costs_[task];
    const auto now = Clock::now();
    if (now - reported_ < std::chrono::milliseconds(100) && done_ != total_) return;
    reported_ = now;
    options_.progress(done_, total_);
  }

  void fail(std::size_t task, std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    if (error_ && task > failed_task_) return;
    failed_task_ = task;
    error_ = std::move(error);
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
    if (stopped()) throw Error(ErrorCode::interrupted, "stopped before all tensors were read");
  }

 private:
  std::span<const std::uint64_t> costs_;
  const ScanOptions& options_;
  std::uint64_t total_ = 0;
  std::uint64_t done_ = 0;
  Clock::time_point reported_{};
  std::mutex mutex_;
  std::atomic<bool> failed_ = false;
  std::size_t failed_task_ = 0;
  std::exception_ptr error_;
};

}  // namespace

void run_tasks(std::span<const std::uint64_t> costs, const ScanOptions& options,
               const std::function<void(std::size_t)>& task) {
  Monitor monitor(costs, options);
  const auto available = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : available;
  ThreadPool pool(static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(threads), costs.size())));
  const auto guarded = [&](std::size_t i) {
    if (monitor.quits()) return;
    try {
      task(i);
      monitor.finish(i);
    } catch (...) {
      monitor.fail(i, std::current_exception());
    }
  };
  pool.run(costs.size(), guarded, [] {});
  monitor.rethrow();
}

void append_blocks(std::size_t tensor, std::uint64_t total, std::uint64_t rows, std::vector<RowBlock>& blocks) {
  for (std::uint64_t first = 0; first < total; first += rows) {
    blocks.push_back({tensor, first, std::min(rows, total - first)});
  }
}

}  // namespace quant
