// Masks chosen together with the weights, against the published iteration in float64.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "gptq/helpers.h"
#include "quant/sparsegpt.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;
using Doubles = std::vector<double>;

// The inverse of a positive definite matrix, by elimination.
Doubles inverse_of(Doubles a, std::size_t n) {
  Doubles b(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) b[i * n + i] = 1;
  for (std::size_t k = 0; k < n; ++k) {
    const double pivot = a[k * n + k];
    for (std::size_t j = 0; j < n; ++j) a[k * n + j] /= pivot, b[k * n + j] /= pivot;
    for (std::size_t i = 0; i < n; ++i) {
      const double factor = i == k ? 0 : a[i * n + k];
      for (std::size_t j = 0; j < n; ++j) a[i * n + j] -= factor * a[k * n + j], b[i * n + j] -= factor * b[k * n + j];
    }
  }
  return b;
}

// The mask that keeps the largest of each comparison: 2:4, or half of the matrix.
std::vector<std::uint8_t> largest(const Doubles& values, bool ratio) {
  std::vector<std::uint8_t> mask(values.size(), 1);
  const std::size_t width = ratio ? 4 : values.size();
  for (std::size_t first = 0; first < values.size(); first += width) {
    std::vector<std::size_t> order(width);
    std::iota(order.begin(), order.end(), first);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return std::fabs(values[a]) < std::fabs(values[b]); });
    for (std::size_t i = 0; i < width / 2; ++i) mask[order[i]] = 0;
  }
  return mask;
}

std::vector<std::uint8_t> searched(const std::vector<float>& weights, std::size_t rows, const InputStatistics& inputs,
                                   bool ratio) {
  const std::size_t n = inputs.cols;
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += inputs.gram[i * n + i] / static_cast<double>(n);
  Doubles h(inputs.gram.begin(), inputs.gram.end()), roots(n);
  for (std::size_t i = 0; i < n; ++i) h[i * n + i] += 0.01 * mean;
  for (std::size_t i = 0; i < n; ++i) roots[i] = std::sqrt(h[i * n + i]);
  for (std::size_t i = 0; i < n * n; ++i) h[i] /= roots[i / n] * roots[i % n];
  const auto times = [&](const Doubles& a, const Doubles& b) {
    Doubles c(rows * n, 0.0);
    for (std::size_t i = 0; i < rows * n; ++i) {
      for (std::size_t k = 0; k < n; ++k) c[i] += a[i / n * n + k] * b[k * n + i % n];
    }
    return c;
  };
  Doubles masked(weights.begin(), weights.end()), duals(rows * n, 0.0);
  for (std::size_t i = 0; i < rows * n; ++i) masked[i] *= roots[i % n];
  const Doubles target = times(masked, h);
  std::vector<std::uint8_t> mask;
  double penalty = 0.03;
  for (int round = 0; round < 40; ++round) {
    if (round > 0 && round % 5 == 0) penalty *= 2;
    Doubles near = h, sums = target;
    for (std::size_t i = 0; i < n; ++i) near[i * n + i] += penalty;
    for (std::size_t i = 0; i < rows * n; ++i) sums[i] += penalty * masked[i] - duals[i];
    Doubles free = times(sums, inverse_of(near, n)), moved = free;
    for (std::size_t i = 0; i < rows * n; ++i) moved[i] += duals[i] / penalty;
    mask = largest(moved, ratio);
    for (std::size_t i = 0; i < rows * n; ++i) {
      masked[i] = mask[i] != 0 ? moved[i] : 0;
      duals[i] += penalty * (free[i] - masked[i]);
    }
  }
  return mask;
}

struct Sample {
  std::vector<float> weights;
  InputStatistics inputs;
};

Sample sample(std::uint64_t rows, std::uint64_t cols) {
  Sample sample{std::vector<float>(rows * cols), correlated_inputs(cols, 4 * cols)};
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& value : sample.weights) value = normal(random);
  return sample;
}

SparsityPattern half() {
  SparsityPattern pattern;
  pattern.sparsity = 0.5;
  return pattern;
}

}  // namespace

TEST_CASE("searched masks are those of the published iteration", "[golden]") {
  const Sample data = sample(12, 32);
  SparseGptOptions options;
  options.mask_search = MaskSearch::admm;
  for (const bool ratio : {false, true}) {
    const PrunedWeight pruned =
        sparsegpt_prune(data.weights, 12, data.inputs, ratio ? parse_pattern("2:4") : half(), options, 2);
    const std::vector<std::uint8_t> expected = searched(data.weights, 12, data.inputs, ratio);
    std::size_t different = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) different += expected[i] != pruned.mask[i] ? 1 : 0;
    INFO(ratio);
    CHECK(different <= 2);  // a pair of scores that are equal up to rounding
  }
}

TEST_CASE("a searched mask has less error than the sweep's, both refitted") {
  const Sample data = sample(64, 96);
  const auto error = [&](const std::vector<float>& values) {
    double total = 0;
    for (std::size_t r = 0; r < 64; ++r) {
      for (std::size_t i = 0; i < 96; ++i) {
        double product = 0;
        for (std::size_t j = 0; j < 96; ++j) {
          product += data.inputs.gram[i * 96 + j] * (data.weights[r * 96 + j] - values[r * 96 + j]);
        }
        total += product * (data.weights[r * 96 + i] - values[r * 96 + i]);
      }
    }
    return total;
  };
  for (const SparsityPattern& pattern : {half(), parse_pattern("2:4")}) {
    SparseGptOptions options;
    options.refit.kind = Refit::exact;
    const double swept = error(sparsegpt_prune(data.weights, 64, data.inputs, pattern, options).values);
    options.mask_search = MaskSearch::admm;
    const double found = error(sparsegpt_prune(data.weights, 64, data.inputs, pattern, options).values);
    INFO(describe(pattern) << " " << found / swept);
    CHECK(found < 0.95 * swept);
  }
}
