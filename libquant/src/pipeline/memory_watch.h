// Looks at the process's memory while others work: solvers do not report on their way.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace quant {

class MemoryWatch {
 public:
  /// Begins to watch, in a thread of its own. Throws Error{io} if the system gives none.
  MemoryWatch();
  ~MemoryWatch() { close(); }
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  /// Ends watching; the most anonymous memory seen, in bytes.
  std::uint64_t close();

 private:
  void watch();

  std::mutex mutex_;
  std::condition_variable closing_;
  bool closed_ = false;
  std::uint64_t peak_ = 0;
  std::thread thread_;
};

}  // namespace quant
