#include "waiting_threads.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace quant::cli {

namespace {

// Under a loader that was started by hand (ld-linux.so quant ...), the process's program is the loader.
bool is_this_program(const std::filesystem::path& running, const char* called) {
  const std::string name = running.filename().string();
  if (name.starts_with("ld-") || name.starts_with("ld.")) return false;
  const std::filesystem::path path = called == nullptr ? "" : called;
  if (!path.has_parent_path()) return true;  // found through PATH
  std::error_code failed;
  return std::filesystem::equivalent(running, path, failed) || failed;
}

}  // namespace

void let_waiting_threads_sleep(char** argv) {
  constexpr std::array kSettings = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
  const bool said =
      std::any_of(kSettings.begin(), kSettings.end(), [](const char* name) { return std::getenv(name) != nullptr; });
  if (said) return;
  std::error_code failed;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (failed || !is_this_program(program, argv[0])) return;
  // GCC's OpenMP then spins for some ten microseconds, what most waits take, before it sleeps: a quiet machine loses
  // nothing. LLVM's knows the policy alone.
  if (setenv("GOMP_SPINCOUNT", "500", 0) != 0 || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
  execv(program.c_str(), argv);
}

}  // namespace quant::cli
