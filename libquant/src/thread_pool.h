// A pool of threads that work through numbered tasks.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quant {

/// Throws the Error{io} of a system that refused to start `wanted` threads.
[[noreturn]] void throw_no_threads(int wanted, const std::exception& reason);

/// Threads live as long as the pool, so that their thread-local scratch memory is allocated once.
class ThreadPool {
 public:
  /// Starts `threads` threads, at least one. Throws Error{io} if the system does not allow that many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Runs task(0) .. task(count - 1), in any order, and waits for all of them. `tick` is called by the waiting thread
  /// about ten times a second. After a task threw, tasks that have not begun are left out and the first exception is
  /// rethrown.
  void run(std::size_t count, const std::function<void(std::size_t)>& task, const std::function<void()>& tick);

 private:
  void close();
  void work();
  bool next(std::size_t& index);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::thread> threads_;
  const std::function<void(std::size_t)>* task_ = nullptr;
  std::size_t next_ = 0;
  std::size_t count_ = 0;
  std::size_t busy_ = 0;
  std::exception_ptr failure_;
  bool closing_ = false;
};

}  // namespace quant
