#include "solve_benchmark.h"

#include <fmt/format.h>

#include <random>

#include "quant/gptq.h"
#include "quant/sparsegpt.h"

namespace quant::cli {
namespace {

std::vector<float> gaussian(std::uint64_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Neighbouring channels resemble each other, and some are larger, so that errors have somewhere to go.
InputStatistics correlated_inputs(std::uint64_t n, int threads) {
  const std::uint64_t tokens = 2 * n;
  std::vector<float> x = gaussian(tokens * n, 3);
  for (std::uint64_t t = 0; t < tokens; ++t) {
    for (std::uint64_t c = 1; c < n; ++c) x[t * n + c] += 0.7F * x[t * n + c - 1];
    for (std::uint64_t c = 0; c < n; c += 17) x[t * n + c] *= 5;
  }
  GramAccumulator gram(n, ProductType::f32);
  gram.add(x, {}, tokens, threads);
  InputStatistics inputs;
  inputs.tokens = tokens;
  inputs.cols = n;
  inputs.gram = gram.take_gram(threads);
  return inputs;
}

BenchmarkCase solve_case(std::uint64_t n, int threads, std::uint64_t rounds) {
  const double cube = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  BenchmarkCase result;
  result.name = rounds == 0 ? "gptq" : "gptq_refined";
  result.type = "f32";
  result.shape = fmt::format("{} x {}, int4 group 128", n, n);
  result.operations = (5.0 / 3 + 2 * static_cast<double>(rounds)) * cube;
  result.limit_operations = 2 * cube;
  result.threads = threads;
  QuantArgs args;
  args.num_bits = 4;
  args.strategy = Strategy::group;
  args.group_size = 128;
  GptqOptions options;
  options.refine_rounds = rounds;
  const auto weight = std::make_shared<const std::vector<float>>(gaussian(n * n, 1));
  const auto inputs = std::make_shared<const InputStatistics>(correlated_inputs(n, threads));
  result.run = [=] { gptq_quantize(*weight, n, *inputs, args, options, threads); };
  result.limit = product_limit(n, n, n, ProductType::f32, threads);
  return result;
}

// Limits as for GPTQ, whose sweep it shares.
BenchmarkCase pruning_case(std::uint64_t n, int threads, const SparsityPattern& pattern) {
  const double cube = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  BenchmarkCase result;
  result.name = "sparsegpt";
  result.type = "f32";
  result.shape = fmt::format("{} x {}, {}", n, n, describe(pattern));
  result.operations = 5.0 / 3 * cube;
  result.limit_operations = 2 * cube;
  result.threads = threads;
  const auto weight = std::make_shared<const std::vector<float>>(gaussian(n * n, 1));
  const auto inputs = std::make_shared<const InputStatistics>(correlated_inputs(n, threads));
  result.run = [=] { sparsegpt_prune(*weight, n, *inputs, pattern, {}, threads); };
  result.limit = product_limit(n, n, n, ProductType::f32, threads);
  return result;
}

}  // namespace

std::vector<std::function<BenchmarkCase()>> solve_benchmarks(std::uint64_t width, int threads) {
  std::vector<std::function<BenchmarkCase()>> cases;
  for (const std::uint64_t rounds : {0, 1}) cases.emplace_back([=] { return solve_case(width, threads, rounds); });
  SparsityPattern half;
  half.sparsity = 0.5;
  for (const SparsityPattern& pattern : {half, parse_pattern("2:4")}) {
    cases.emplace_back([=] { return pruning_case(width, threads, pattern); });
  }
  return cases;
}

}  // namespace quant::cli
