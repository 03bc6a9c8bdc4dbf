// This program again, as a process of its own.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace quant::cli {

/// How a child ended.
struct ChildEnd {
  int exit_code = 0;  ///< or 128 + signal
  int signal = 0;     ///< that killed it; 0: none
  double seconds = 0;
  std::uint64_t peak_memory = 0;  ///< resident bytes
};

/// Started in a process group of its own, so that Ctrl-C of a terminal reaches the parent alone. The kernel kills it
/// when the thread that started it ends, and takes it first where memory runs out.
class ChildProcess {
 public:
  /// Output goes to `out`, messages to the end of `log`. Throws Error{io}.
  ChildProcess(const std::vector<std::string>& arguments, const std::filesystem::path& out,
               const std::filesystem::path& log);
  /// Kills it if it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Whether it has ended; does not wait.
  bool ended();
  const ChildEnd& end() const { return end_; }
  void signal(int number) const;
  double seconds() const;

 private:
  pid_t pid_ = -1;
  bool running_ = false;
  ChildEnd end_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace quant::cli
