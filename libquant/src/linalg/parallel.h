// OpenMP loops over fixed tiles: exceptions may leave them, and oneDNN inside them stays on the thread that calls it.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>

namespace quant::linalg {

/// How many threads to ask OpenMP for: none that would have no task or no processor, since its runtime ends the process
/// if it cannot start one. A few are always allowed.
inline int team_size(int wanted, std::size_t tasks) {
  constexpr int kAlwaysAllowed = 8;
  const int most = std::max(kAlwaysAllowed, omp_get_num_procs());
  return static_cast<int>(std::clamp<std::size_t>(tasks, 1, static_cast<std::size_t>(std::clamp(wanted, 1, most))));
}

/// While it lives, OpenMP regions that this thread begins have that many threads, where they may have several.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(team_size(count, SIZE_MAX)); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// oneDNN divides the sums of a product by the number of threads that it may start. With one, the same call gives the
/// same bits everywhere.
class OneThread : Threads {
 public:
  OneThread() : Threads(1) {}
};

/// The failure of the lowest-numbered task that failed, whatever the number of threads.
class TaskFailure {
 public:
  template <class Action>
  void guard(std::size_t task, const Action& action) noexcept {
    try {
      action();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (error_ && task > task_) return;
      task_ = task;
      error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::size_t task_ = 0;
  std::exception_ptr error_;
};

/// body(task) for all tasks 0 .. count - 1, each on one thread, taken in this order.
template <class Body>
void for_tasks(int threads, std::size_t count, const Body& body) {
  TaskFailure failure;
#pragma omp parallel num_threads(team_size(threads, count))
  {
    const OneThread one;
#pragma omp for schedule(dynamic)
    for (std::size_t task = 0; task < count; ++task) {
      failure.guard(task, [&] { body(task); });
    }
  }
  failure.rethrow();
}

/// How many pieces of `size` cover `total`.
inline std::uint64_t pieces(std::uint64_t total, std::uint64_t size) { return total / size + (total % size != 0); }

}  // namespace quant::linalg
