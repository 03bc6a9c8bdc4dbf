#include "quant/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <memory>

#include "linalg/onednn.h"
#include "linalg/operand.h"
#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant {
namespace {

using Floats = std::vector<float>;

double now(int threads) {
  timespec time{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Values in [-0.5, 0.5) without a pattern that a product could profit from.
Floats numbers(std::uint64_t count) {
  Floats values(count);
  std::uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
  }
  return values;
}

// One product by oneDNN on several threads.
class WholeProduct {
 public:
  WholeProduct(std::uint64_t m, std::uint64_t n, std::uint64_t k, ProductType type, int threads) : threads_(threads) {
    const linalg::Operand operand = linalg::operand_of(type);
    const auto element = operand == linalg::Operand::bf16 ? linalg::Type::bf16 : linalg::Type::f32;
    make(m, n, k, element, linalg::Type::f32);
    source_.resize(m * k * linalg::operand_bytes(operand));
    linalg::to_operand(numbers(m * k).data(), m * k, operand, source_.data());
    // In oneDNN's layout any values are some weights; bytes may be more than k n elements.
    const std::uint64_t elements = weights_.size() / linalg::operand_bytes(operand);
    linalg::to_operand(numbers(elements).data(), elements, operand, weights_.data());
  }

  // 8-bit integers with sums of 32 bits.
  WholeProduct(std::uint64_t m, std::uint64_t n, std::uint64_t k, int threads) : threads_(threads) {
    make(m, n, k, linalg::Type::s8, linalg::Type::s32);
    source_.resize(m * k);
    for (std::uint64_t i = 0; i < source_.size(); ++i) source_[i] = static_cast<std::byte>(i * 37);
    for (std::uint64_t i = 0; i < weights_.size(); ++i) weights_[i] = static_cast<std::byte>(i * 91);
  }

  void run() {
    const linalg::Threads team(threads_);
    linalg::with_onednn([&] { product_->run(source_.data(), weights_.data(), result_.data(), scratch_); });
  }

 private:
  void make(std::uint64_t m, std::uint64_t n, std::uint64_t k, linalg::Type element, linalg::Type sum) {
    const linalg::Threads team(threads_);
    linalg::with_onednn([&] {
      product_ =
          std::make_unique<linalg::Matmul>(linalg::matrix(m, k, element, k, 1), linalg::any_matrix(k, n, element),
                                           linalg::matrix(m, n, sum, n, 1), false);
    });
    weights_.resize(product_->weights().get_size());
    result_.resize(m * n);
  }

  int threads_;
  std::unique_ptr<linalg::Matmul> product_;
  std::vector<std::byte> source_, weights_, scratch_;
  Floats result_;
};

std::string type_name(ProductType type) { return type == ProductType::bf16 ? "bf16" : "f32"; }

double cube(std::uint64_t m, std::uint64_t n, std::uint64_t k) {
  return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

BenchmarkCase product_case(std::uint64_t tokens, std::uint64_t rows, std::uint64_t cols, ProductType type,
                           int threads) {
  BenchmarkCase work{"product", type_name(type), fmt::format("{} x {} x {}", tokens, rows, cols), 0, 0, threads, {}, {},
                     {}};
  work.operations = work.limit_operations = 2.0 * cube(tokens, rows, cols);
  const auto product = std::make_shared<Product>(numbers(rows * cols), rows, cols, type, threads);
  work.run = [=, x = numbers(tokens * cols), y = Floats(tokens * rows)]() mutable {
    product->run(x, tokens, y, threads);
  };
  work.limit = product_limit(tokens, rows, cols, type, threads);
  return work;
}

BenchmarkCase gram_case(std::uint64_t rows, std::uint64_t n, ProductType type, int threads) {
  BenchmarkCase work{"gram", type_name(type), fmt::format("{} rows of {}", rows, n), 0, 0, threads, {}, {}, {}};
  work.operations = cube(n, n, rows);
  work.limit_operations = 2.0 * work.operations;
  const auto sums = std::make_shared<GramAccumulator>(n, type);
  work.run = [=, x = numbers(rows * n)] { sums->add(x, {}, rows, threads); };
  work.limit = product_limit(n, n, rows, type, threads);
  return work;
}

BenchmarkCase factor_case(std::uint64_t n, int threads) {
  BenchmarkCase work{"inverse_factor", "f32", fmt::format("{0} x {0}", n), 0, 0, threads, {}, {}, {}};
  work.operations = 2.0 / 3.0 * cube(n, n, n);
  work.limit_operations = 2.0 * cube(n, n, n);
  GramAccumulator sums(n, ProductType::f32);
  sums.add(numbers(n * n), {}, n, threads);
  auto h = std::make_shared<Floats>(sums.take_gram(threads));
  for (std::uint64_t i = 0; i < n; ++i) (*h)[i * n + i] += 0.01F;
  const auto factor = std::make_shared<Floats>(n * n);
  work.prepare = [=] { *factor = *h; };
  work.run = [=] {
    if (!inverse_upper_factor(*factor, n, threads)) {
      throw Error(ErrorCode::internal, "The benchmark's matrix is not positive definite.");
    }
  };
  work.limit = product_limit(n, n, n, ProductType::f32, threads);
  return work;
}

// What a blocked solver does most: c -= a b.
BenchmarkCase gemm_case(std::uint64_t m, std::uint64_t n, std::uint64_t k, int threads) {
  BenchmarkCase work{"gemm", "f32", fmt::format("{} x {} x {}", m, n, k), 0, 0, threads, {}, {}, {}};
  work.operations = work.limit_operations = 2.0 * cube(m, n, k);
  work.run = [=, a = numbers(m * k), b = numbers(k * n), c = numbers(m * n)]() mutable {
    gemm(m, n, k, -1.0F, {a.data(), k}, {b.data(), n}, false, 1.0F, {c.data(), n}, threads);
  };
  work.limit = product_limit(m, n, k, ProductType::f32, threads);
  return work;
}

}  // namespace

double seconds_of_one(const std::function<void()>& prepare, const std::function<void()>& action, int threads) {
  constexpr double kLeast = 0.005;
  double total = 0.0;
  int calls = 0;
  for (; total < kLeast; ++calls) {
    if (prepare) prepare();
    const double begin = now(threads);
    action();
    total += now(threads) - begin;
  }
  return total / calls;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

BenchmarkResult measure(const BenchmarkCase& work, int rounds) {
  if (rounds < 1) throw Error(ErrorCode::usage, fmt::format("measure: {} rounds; at least 1 is needed.", rounds));
  std::vector<double> rates;
  std::vector<double> limits;
  std::vector<double> ratios;
  if (work.prepare) work.prepare();
  work.run();
  work.limit();
  for (int round = 0; round < rounds; ++round) {
    // Each is first in every other round, so that neither always finds the other's caches.
    double limit = round % 2 == 0 ? seconds_of_one({}, work.limit, work.threads) : 0.0;
    const double run = seconds_of_one(work.prepare, work.run, work.threads);
    if (round % 2 != 0) limit = seconds_of_one({}, work.limit, work.threads);
    rates.push_back(work.operations / run);
    limits.push_back(work.limit_operations / limit);
    ratios.push_back(rates.back() / limits.back());
  }
  return {work.name, work.type, work.shape, work.operations, median(rates), median(limits), median(ratios)};
}

std::function<void()> product_limit(std::uint64_t m, std::uint64_t n, std::uint64_t k, ProductType type, int threads) {
  const auto product = std::make_shared<WholeProduct>(m, n, k, type, threads);
  return [product] { product->run(); };
}

std::function<void()> integer_product_limit(std::uint64_t m, std::uint64_t n, std::uint64_t k, int threads) {
  const auto product = std::make_shared<WholeProduct>(m, n, k, threads);
  return [product] { product->run(); };
}

std::vector<std::function<BenchmarkCase()>> linalg_benchmarks(std::uint64_t width, int threads) {
  if (width == 0 || width > 32768) {
    throw Error(ErrorCode::usage, fmt::format("The width {} is not within 1 .. 32768.", width));
  }
  const std::uint64_t wide = width * 43 / 16;  // of the feed-forward layers: 11008 for 4096
  std::vector<std::function<BenchmarkCase()>> cases;
  std::vector<ProductType> types{ProductType::f32};
  if (fastest_product_type() == ProductType::bf16) types.push_back(ProductType::bf16);
  for (const ProductType type : types) {
    for (const std::uint64_t tokens : {1, 512, 2048}) {
      cases.emplace_back([=] { return product_case(tokens, width, width, type, threads); });
    }
    cases.emplace_back([=] { return product_case(512, wide, width, type, threads); });
    cases.emplace_back([=] { return product_case(512, width, wide, type, threads); });
  }
  for (const ProductType type : types) {
    cases.emplace_back([=] { return gram_case(2048, width, type, threads); });
  }
  cases.emplace_back([=] { return factor_case((width + 1) / 2, threads); });
  cases.emplace_back([=] { return factor_case(width, threads); });
  cases.emplace_back([=] { return gemm_case(width, width, 128, threads); });
  cases.emplace_back([=] { return gemm_case(width, 512, 128, threads); });
  cases.emplace_back([=] { return gemm_case((width + 1) / 2, (width + 1) / 2, (width + 1) / 2, threads); });
  return cases;
}

}  // namespace quant
