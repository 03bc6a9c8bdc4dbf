// quant bench kernels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "session.h"

namespace quant::cli {

struct KernelBenchCommand {
  std::vector<std::string> shapes{"4096x4096", "11008x4096", "14336x4096"};
  std::vector<std::uint64_t> batches;  // empty: 1, 8, 64, 512, and 16 on a device
  std::vector<std::string> codecs;
  std::string device = "cpu";
  int rounds = 5;
  int threads = 0;
};
int kernel_bench_command(const KernelBenchCommand& options, Session& session);

}  // namespace quant::cli
