#include "pipeline/memory_watch.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "pipeline/finish.h"
#include "thread_pool.h"

namespace quant {

MemoryWatch::MemoryWatch() try : thread_([this] { watch(); }) {
} catch (const std::system_error& reason) {
  throw_no_threads(1, reason);
}

void MemoryWatch::watch() {
  constexpr std::chrono::milliseconds kPeriod{50};
  std::unique_lock lock(mutex_);
  while (!closing_.wait_for(lock, kPeriod, [this] { return closed_; })) peak_ = std::max(peak_, anonymous_memory());
}

std::uint64_t MemoryWatch::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  closing_.notify_all();
  if (thread_.joinable()) thread_.join();
  return peak_;
}

}  // namespace quant
