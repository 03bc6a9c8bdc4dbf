#include "waiting_threads.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>

namespace quant::cli {

void let_waiting_threads_sleep(char** argv) {
  constexpr std::array kSettings = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
  const bool said =
      std::any_of(kSettings.begin(), kSettings.end(), [](const char* name) { return std::getenv(name) != nullptr; });
  if (said) return;
  std::error_code failed;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", failed);
  // GCC's OpenMP then spins for some ten microseconds, what most waits take, before it sleeps: a quiet machine loses
  // nothing. LLVM's knows the policy alone.
  if (failed || setenv("GOMP_SPINCOUNT", "500", 0) != 0 || setenv("OMP_WAIT_POLICY", "passive", 0) != 0) return;
  execv(program.c_str(), argv);
}

}  // namespace quant::cli
