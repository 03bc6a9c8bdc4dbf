// OpenMP loops that exceptions may leave.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

namespace quant::rtn {

/// The failure of the lowest-numbered task that failed: the same one for any number of threads.
class FirstFailure {
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

/// How many threads to ask OpenMP for. Its runtime ends the process if it cannot start one, so none that would have no
/// task or no processor; a few are always allowed.
inline int loop_threads(int wanted, std::size_t tasks) {
  constexpr int kAlwaysAllowed = 8;
  const int most = std::max(kAlwaysAllowed, omp_get_num_procs());
  return static_cast<int>(std::clamp<std::size_t>(tasks, 1, static_cast<std::size_t>(std::clamp(wanted, 1, most))));
}

/// On each thread: State state = make(), then body(state, task) for some of the tasks 0 .. count - 1, then
/// finish(state), one thread at a time. Whatever these throw is rethrown after the loop, that of the lowest task first.
template <class Make, class Body, class Finish>
void parallel_for(int threads, std::size_t count, const Make& make, const Body& body, const Finish& finish) {
  FirstFailure failure;
#pragma omp parallel num_threads(loop_threads(threads, count))
  {
    std::optional<decltype(make())> state;
    failure.guard(count, [&] { state.emplace(make()); });
#pragma omp for schedule(dynamic)
    for (std::size_t task = 0; task < count; ++task) {
      if (state) failure.guard(task, [&] { body(*state, task); });
    }
#pragma omp critical
    if (state) failure.guard(count, [&] { finish(*state); });
  }
  failure.rethrow();
}

/// body(task) for all tasks 0 .. count - 1.
template <class Body>
void parallel_for(int threads, std::size_t count, const Body& body) {
  struct Nothing {};
  parallel_for(
      threads, count, [] { return Nothing{}; }, [&](Nothing&, std::size_t task) { body(task); }, [](Nothing&) {});
}

}  // namespace quant::rtn
