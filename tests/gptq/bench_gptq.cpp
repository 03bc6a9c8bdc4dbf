// Speed of one GPTQ solve beside the machine's own matrix product: bench_gptq [size] [threads].
//
// Operations counted: 2/3 n^3 for the factor of H^-1 (a Cholesky factor and a triangular inverse, n^3 / 3 each) and
// rows n^2 for passing errors on; a refining round, measured apart, 2 rows n^2. The limit is the float32 rate of
// quant::gemm on n x n x n in the same run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "quant/gptq.h"
#include "quant/linalg.h"

namespace {

using namespace quant;

double seconds_of(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The least of three.
double best_of(const auto& body) { return std::min({seconds_of(body), seconds_of(body), seconds_of(body)}); }

std::vector<float> gaussian(std::uint64_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

InputStatistics random_inputs(std::uint64_t n, int threads) {
  const std::uint64_t tokens = 2 * n;
  std::vector<float> x = gaussian(tokens * n, 3);
  for (std::uint64_t t = 0; t < tokens; ++t) {  // neighbours resemble each other, channels differ in size
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

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t n = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4096;
  const int threads = argc > 2 ? std::atoi(argv[2]) : static_cast<int>(std::thread::hardware_concurrency());
  if (n < 16 || threads < 1) {
    std::fprintf(stderr, "usage: bench_gptq [size >= 16] [threads >= 1]\n");
    return 2;
  }
  const double cube = static_cast<double>(n) * n * n;
  const std::vector<float> weight = gaussian(n * n, 1), other = gaussian(n * n, 2);
  const InputStatistics inputs = random_inputs(n, threads);
  std::vector<float> product(n * n);
  const auto multiply = [&] {
    gemm(n, n, n, 1.0F, {weight.data(), n}, {other.data(), n}, false, 0.0F, {product.data(), n}, threads);
  };
  const double gemm_rate = 2 * cube / best_of(multiply) / 1e9;
  const double factor_time = best_of([&] {
    product = inputs.gram;
    for (std::uint64_t i = 0; i < n; ++i) product[i * n + i] *= 1.1F;
    if (!inverse_upper_factor(product, n, threads)) std::puts("not positive definite");
  });
  std::printf("%llu x %llu, %d threads; product %.1f GFLOP/s\n", static_cast<unsigned long long>(n),
              static_cast<unsigned long long>(n), threads, gemm_rate);
  std::printf("factor of H^-1: %.2f s, %.2f of the product's rate\n", factor_time,
              2.0 / 3 * cube / factor_time / 1e9 / gemm_rate);
  QuantArgs args;
  args.num_bits = 4;
  args.strategy = Strategy::group;
  args.group_size = 128;
  double plain = 0;
  for (const std::uint64_t rounds : {0, 1}) {
    GptqOptions options;
    options.refine_rounds = rounds;
    const double time = best_of([&] { gptq_quantize(weight, n, inputs, args, options, threads); });
    if (rounds == 0) plain = time;
    const double operations = rounds == 0 ? 5.0 / 3 * cube : 2 * cube;
    std::printf("%s: %.2f s, %.2f of the product's rate\n", rounds == 0 ? "GPTQ, int4 group 128" : "a refining round",
                rounds == 0 ? time : time - plain, operations / (rounds == 0 ? time : time - plain) / 1e9 / gemm_rate);
  }
  return 0;
}
