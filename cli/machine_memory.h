// Memory of this machine and of this process.
#pragma once

#include <cstdint>

namespace quant::cli {

/// Bytes that this process may still take without swapping (MemAvailable, and the limit of its control group); 0 if
/// the system does not tell.
std::uint64_t available_memory();

/// The largest amount of memory seen, mapped file pages aside.
class MemoryPeak {
 public:
  void sample();
  std::uint64_t bytes() const { return bytes_; }
  /// The same with mapped file pages, as the system counted it; 0 if it does not tell.
  static std::uint64_t resident();

 private:
  std::uint64_t bytes_ = 0;
};

}  // namespace quant::cli
