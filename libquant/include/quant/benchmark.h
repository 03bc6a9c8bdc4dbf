// Speeds measured beside their limits: what `quant bench` prints.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quant/linalg.h"

namespace quant {

/// Work, and other work that runs at the machine's limit for it.
struct BenchmarkCase {
  std::string name;               ///< "product"
  std::string type;               ///< "f32", "bf16"
  std::string shape;              ///< "512 x 4096 x 4096"
  double operations = 0;          ///< floating point, of one `run`; a multiply-add is two
  double limit_operations = 0;    ///< of one `limit`
  int threads = 1;                ///< that both use
  std::function<void()> prepare;  ///< before each run, not timed; may be empty
  std::function<void()> run;
  std::function<void()> limit;
};

struct BenchmarkResult {
  std::string name, type, shape;
  double operations = 0;
  double rate = 0;        ///< of `run`, median over the rounds, in operations per second
  double limit_rate = 0;  ///< of `limit`, likewise
  double ratio = 0;       ///< median over the rounds of their ratio in one round
};

/// Runs both once, then in `rounds` rounds one after the other in turns, each for a few milliseconds at least. With one
/// thread, the time is what the processor spent on it, so that other programs disturb it little.
BenchmarkResult measure(const BenchmarkCase& work, int rounds);

/// The limit of products c [m, n] = a [m, k] b [k, n] of that type: one call of oneDNN for the whole shape on that many
/// threads, with operands in its type and in the layout that it likes best. 2 m n k operations.
std::function<void()> product_limit(std::uint64_t m, std::uint64_t n, std::uint64_t k, ProductType type, int threads);

/// The same with operands of 8-bit integers and sums of 32 bits.
std::function<void()> integer_product_limit(std::uint64_t m, std::uint64_t n, std::uint64_t k, int threads);

/// Seconds of one call of `action`, from as many calls as take a few milliseconds; with one thread the time that the
/// processor spent. `prepare` is called before each, not timed; it may be empty.
double seconds_of_one(const std::function<void()>& prepare, const std::function<void()>& action, int threads);
/// The middle of `values`, which are not empty.
double median(std::vector<double> values);

/// The operations of linalg.h at the shapes of a model of that width (4096: 7 billion parameters). Each entry makes a
/// case when it is called, so that only one has its matrices in memory. Operations counted:
/// products and gemm 2 m n k; gram n^2 per row (the half that symmetry leaves of 2 n^2); inverse_factor 2/3 n^3.
std::vector<std::function<BenchmarkCase()>> linalg_benchmarks(std::uint64_t width, int threads);

/// The forward pass of one Llama block of that width on 4 sequences of 512 tokens, in each type: norms, rotation,
/// attention, activation and all, beside oneDNN's products of its linears. Operations counted: those of the products.
std::vector<std::function<BenchmarkCase()>> forward_benchmarks(std::uint64_t width, int threads);

}  // namespace quant
