#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "quant/error.h"

namespace quant {

void throw_no_threads(int wanted, const std::exception& reason) {
  throw Error(ErrorCode::io, "cannot start " + std::to_string(wanted) + " threads: " + reason.what(),
              "use fewer with --threads, or raise the limits on processes and memory");
}

ThreadPool::ThreadPool(int threads) {
  const int wanted = std::max(1, threads);
  try {
    for (int i = 0; i < wanted; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::exception& reason) {
    // Going on with those that started would leave no memory for their work.
    close();
    throw_no_threads(wanted, reason);
  }
}

ThreadPool::~ThreadPool() { close(); }

void ThreadPool::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool ThreadPool::next(std::size_t& index) {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return closing_ || next_ < count_; });
  if (closing_) return false;
  index = next_++;
  ++busy_;
  return true;
}

void ThreadPool::work() {
  std::size_t index = 0;
  while (next(index)) {
    std::exception_ptr failure;
    try {
      (*task_)(index);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    --busy_;
    if (failure) {
      if (!failure_) failure_ = std::move(failure);
      next_ = count_;
    }
    if (busy_ == 0 && next_ == count_) idle_.notify_one();
  }
}

void ThreadPool::run(std::size_t count, const std::function<void(std::size_t)>& task,
                     const std::function<void()>& tick) {
  if (count == 0) return;
  std::unique_lock lock(mutex_);
  task_ = &task;
  next_ = 0;
  count_ = count;
  failure_ = nullptr;
  wake_.notify_all();
  const auto done = [this] { return busy_ == 0 && next_ == count_; };
  while (!idle_.wait_for(lock, std::chrono::milliseconds(100), done)) {
    lock.unlock();
    try {
      tick();
    } catch (...) {
      lock.lock();
      if (!failure_) failure_ = std::current_exception();
      next_ = count_;
      continue;
    }
    lock.lock();
  }
  next_ = count_ = 0;
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace quant
