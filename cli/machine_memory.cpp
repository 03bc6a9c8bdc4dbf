#include "machine_memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace quant::cli {
namespace {

/// The number after `key` in a file of "Key:   123 kB" lines, in bytes; 0 if there is none.
std::uint64_t kilobytes_of(const char* file, const std::string& key) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line)) {
    if (line.starts_with(key)) return std::strtoull(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return 0;
}

std::uint64_t number_in(const char* file, std::uint64_t otherwise) {
  std::ifstream in(file);
  std::uint64_t number = 0;
  return in >> number ? number : otherwise;
}

}  // namespace

std::uint64_t available_memory() {
  const std::uint64_t free = kilobytes_of("/proc/meminfo", "MemAvailable:");
  constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t limit = number_in("/sys/fs/cgroup/memory.max", kNone);  // "max" is no number
  if (limit == kNone) return free;
  const std::uint64_t left = limit - std::min(limit, number_in("/sys/fs/cgroup/memory.current", 0));
  return free == 0 ? left : std::min(free, left);
}

void MemoryPeak::sample() { bytes_ = std::max(bytes_, kilobytes_of("/proc/self/status", "RssAnon:")); }

std::uint64_t MemoryPeak::resident() { return kilobytes_of("/proc/self/status", "VmHWM:"); }

}  // namespace quant::cli
