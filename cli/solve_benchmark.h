// The speed of GPTQ beside the machine's matrix product.
#pragma once

#include <functional>
#include <vector>

#include "quant/benchmark.h"

namespace quant::cli {

/// GPTQ of a layer [width, width], 4-bit integers in groups of 128: plain; and one refining round more, whose
/// operations are those of both. Counted: 2/3 n^3 for the factor of the inverse Hessian, n^3 for passing errors on, 2
/// n^3 for a round. The limit is oneDNN's float32 product of the same size.
std::vector<std::function<BenchmarkCase()>> solve_benchmarks(std::uint64_t width, int threads);

}  // namespace quant::cli
