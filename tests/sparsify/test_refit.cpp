// Refitting against least squares solved row by row in float64.
#include <algorithm>
#include <cmath>
#include <random>

#include "gptq/helpers.h"
#include "quant/error.h"
#include "quant/magnitude.h"
#include "quant/refit.h"
#include "quant/sparsegpt.h"
#include "quant/wanda.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;
using Doubles = std::vector<double>;

// x of A x = b, by elimination with pivots.
Doubles solve(Doubles a, Doubles b) {
  const std::size_t n = b.size();
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t pivot = k;
    for (std::size_t i = k; i < n; ++i) {
      if (std::fabs(a[i * n + k]) > std::fabs(a[pivot * n + k])) pivot = i;
    }
    for (std::size_t j = 0; j < n; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
    std::swap(b[k], b[pivot]);
    for (std::size_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / a[k * n + k];
      for (std::size_t j = k; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
      b[i] -= factor * b[k];
    }
  }
  for (std::size_t k = n; k-- > 0;) {
    for (std::size_t j = k + 1; j < n; ++j) b[k] -= a[k * n + j] * b[j];
    b[k] /= a[k * n + k];
  }
  return b;
}

struct Problem {
  std::uint64_t rows = 0, cols = 0;
  InputStatistics inputs;
  std::vector<float> original, pruned;
  std::vector<std::uint8_t> mask;
  RefitOptions options;

  // H', and T H' of a row.
  Doubles metric() const {
    double mean = 0, used = 0;
    for (std::uint64_t i = 0; i < cols; ++i) {
      const double own = inputs.gram[i * cols + i];
      mean += own;
      used += own > 0 ? 1 : 0;
    }
    Doubles h(inputs.gram.begin(), inputs.gram.end());
    for (std::uint64_t i = 0; i < cols; ++i) h[i * cols + i] += options.dampening_frac * mean / used;
    return h;
  }
  Doubles target(const Doubles& h, std::uint64_t row) const {
    Doubles b(cols, 0.0);
    for (std::uint64_t i = 0; i < cols; ++i) {
      for (std::uint64_t k = 0; k < cols; ++k) {
        const double w = original[row * cols + k];
        b[i] += w * h[k * cols + i];
        if (options.asymmetric > 0) b[i] += options.asymmetric * w * inputs.cross_gram[k * cols + i];
      }
      if (options.residual > 0) b[i] += options.residual * inputs.residual[row * cols + i];
    }
    return b;
  }
  // v H' v - 2 v b: the error but for a constant.
  static double error(const Doubles& h, const Doubles& b, const Doubles& v) {
    double sum = 0;
    for (std::size_t i = 0; i < v.size(); ++i) {
      double product = 0;
      for (std::size_t j = 0; j < v.size(); ++j) product += h[i * v.size() + j] * v[j];
      sum += v[i] * (product - 2 * b[i]);
    }
    return sum;
  }
  Doubles row_of(const std::vector<float>& values, std::uint64_t row) const {
    return {values.begin() + static_cast<std::ptrdiff_t>(row * cols),
            values.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols)};
  }
};

Problem make_problem(std::uint64_t rows, std::uint64_t cols) {
  Problem problem;
  problem.rows = rows;
  problem.cols = cols;
  problem.inputs = correlated_inputs(cols, 3 * cols);
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  problem.original.resize(rows * cols);
  for (float& value : problem.original) value = normal(random);
  SparsityPattern half;
  half.sparsity = 0.5;
  PrunedWeight pruned = wanda_prune(problem.original, rows, problem.inputs, half);
  problem.pruned = std::move(pruned.values);
  problem.mask = std::move(pruned.mask);
  problem.options.kind = Refit::exact;
  problem.options.tolerance = 1e-5;
  return problem;
}

void add_compensation(Problem& problem) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal(0.0F, 0.05F);
  problem.inputs.cross_gram.resize(problem.cols * problem.cols);
  for (float& value : problem.inputs.cross_gram) value = normal(random);
  problem.inputs.residual.resize(problem.rows * problem.cols);
  for (float& value : problem.inputs.residual) value = normal(random);
  problem.options.asymmetric = 0.75;
  problem.options.residual = 0.5;
}

std::vector<float> refitted(const Problem& problem, SolveRecord& record, int threads = 2) {
  std::vector<float> values = problem.pruned;
  RunContext context;
  context.threads = threads;
  refit_weights(values, problem.original, problem.mask, problem.rows, problem.inputs, problem.options, context, record);
  return values;
}

void check_exact(const Problem& problem) {
  SolveRecord record;
  const std::vector<float> values = refitted(problem, record);
  CHECK(record.notes.empty());
  const Doubles h = problem.metric();
  for (std::uint64_t row = 0; row < problem.rows; ++row) {
    const Doubles b = problem.target(h, row);
    std::vector<std::uint64_t> kept;
    for (std::uint64_t c = 0; c < problem.cols; ++c) {
      if (problem.mask[row * problem.cols + c] != 0) kept.push_back(c);
      if (problem.mask[row * problem.cols + c] == 0) REQUIRE(values[row * problem.cols + c] == 0);
    }
    Doubles part, right;
    for (const std::uint64_t i : kept) {
      for (const std::uint64_t j : kept) part.push_back(h[i * problem.cols + j]);
      right.push_back(b[i]);
    }
    const Doubles solution = solve(part, right);
    Doubles best(problem.cols, 0.0);
    double size = 0;
    for (std::size_t k = 0; k < kept.size(); ++k) {
      best[kept[k]] = solution[k];
      size = std::max(size, std::fabs(solution[k]));
    }
    for (std::uint64_t c = 0; c < problem.cols; ++c) {
      REQUIRE(values[row * problem.cols + c] == Approx(best[c]).margin(1e-3 * size));
    }
    const double start = Problem::error(h, b, problem.row_of(problem.pruned, row));
    const double end = Problem::error(h, b, problem.row_of(values, row)), least = Problem::error(h, b, best);
    CHECK(end - least <= 1e-5 * (start - least));
  }
}

}  // namespace

TEST_CASE("exact refitting is the least-squares solution given the mask", "[golden]") {
  check_exact(make_problem(5, 48));
  check_exact(make_problem(70, 33));
}

TEST_CASE("exact refitting towards what the unquantized model outputs", "[golden]") {
  Problem problem = make_problem(6, 40);
  add_compensation(problem);
  check_exact(problem);
}

TEST_CASE("dead inputs keep their weights, with damping and without") {
  Problem problem = make_problem(4, 24);
  for (std::uint64_t k = 0; k < 24; ++k) problem.inputs.gram[5 * 24 + k] = problem.inputs.gram[k * 24 + 5] = 0;
  for (std::uint64_t r = 0; r < 4; ++r) {
    problem.mask[r * 24 + 5] = 1;
    problem.pruned[r * 24 + 5] = problem.original[r * 24 + 5];
  }
  for (const double damping : {0.0, 0.01}) {
    problem.options.dampening_frac = damping;
    SolveRecord record;
    const std::vector<float> values = refitted(problem, record);
    for (std::uint64_t r = 0; r < 4; ++r) CHECK(values[r * 24 + 5] == Approx(problem.original[r * 24 + 5]));
  }
}

TEST_CASE("refit: scale gives each row its best factor") {
  Problem problem = make_problem(7, 40);
  add_compensation(problem);
  problem.options.kind = Refit::scale;
  SolveRecord record;
  const std::vector<float> values = refitted(problem, record);
  const Doubles h = problem.metric();
  for (std::uint64_t row = 0; row < problem.rows; ++row) {
    const Doubles b = problem.target(h, row), v = problem.row_of(problem.pruned, row);
    double slope = 0, curvature = 0;
    for (std::uint64_t i = 0; i < 40; ++i) {
      slope += v[i] * b[i];
      for (std::uint64_t j = 0; j < 40; ++j) curvature += v[i] * v[j] * h[i * 40 + j];
    }
    for (std::uint64_t i = 0; i < 40; ++i) {
      CHECK(values[row * 40 + i] == Approx(v[i] * slope / curvature).epsilon(1e-4).margin(1e-12));
    }
  }
}

TEST_CASE("threads do not change a refitted weight, nor do its neighbours") {
  Problem problem = make_problem(300, 64);
  SolveRecord record;
  const std::vector<float> one = refitted(problem, record, 1);
  CHECK(refitted(problem, record, 5) == one);
  Problem last = problem;
  last.rows = 3;
  for (auto* values : {&last.original, &last.pruned}) values->erase(values->begin(), values->end() - 3 * 64);
  last.mask.erase(last.mask.begin(), last.mask.end() - 3 * 64);
  const std::vector<float> part = refitted(last, record);
  for (std::size_t i = 0; i < part.size(); ++i) CHECK(part[i] == Approx(one[297 * 64 + i]).epsilon(1e-4).margin(1e-5));
}

TEST_CASE("refitting lowers the output error of every method, by half for SparseGPT on correlated inputs") {
  const Problem problem = make_problem(64, 128);
  SparsityPattern half;
  half.sparsity = 0.5;
  const auto error = [&](const std::vector<float>& values) {
    double total = 0;
    for (std::uint64_t r = 0; r < problem.rows; ++r) {
      for (std::uint64_t i = 0; i < 128; ++i) {
        double product = 0;
        for (std::uint64_t j = 0; j < 128; ++j) {
          product += problem.inputs.gram[i * 128 + j] * (problem.original[r * 128 + j] - values[r * 128 + j]);
        }
        total += product * (problem.original[r * 128 + i] - values[r * 128 + i]);
      }
    }
    return total;
  };
  const auto check = [&](const PrunedWeight& pruned, double part) {
    Problem own = problem;
    own.pruned = pruned.values;
    own.mask = pruned.mask;
    own.options.kind = Refit::scale;
    SolveRecord record;
    const double before = error(pruned.values), scaled = error(refitted(own, record));
    own.options.kind = Refit::exact;
    const double exact = error(refitted(own, record));
    CHECK(scaled < before);
    CHECK(exact < part * before);
  };
  check(magnitude_prune(problem.original, 64, 128, half), 0.5);
  check(wanda_prune(problem.original, 64, problem.inputs, half), 0.5);
  SparseGptOptions options;
  const PrunedWeight sparse = sparsegpt_prune(problem.original, 64, problem.inputs, half, options);
  check(sparse, 0.8);
  options.refit.kind = Refit::exact;
  const PrunedWeight refit = sparsegpt_prune(problem.original, 64, problem.inputs, half, options);
  CHECK(refit.mask == sparse.mask);
  CHECK(error(refit.values) < 0.8 * error(sparse.values));
  CHECK(error(sparse.values) < error(wanda_prune(problem.original, 64, problem.inputs, half).values));
}

TEST_CASE("inputs that say nothing leave the weights as they are, with a note") {
  Problem problem = make_problem(4, 24);
  for (int way = 0; way < 3; ++way) {
    Problem bad = problem;
    if (way == 0) bad.inputs.tokens = 0;
    if (way == 1) bad.inputs.gram.clear();
    if (way == 2) bad.inputs.gram[7] = std::nanf("");
    SolveRecord record;
    CHECK(refitted(bad, record) == problem.pruned);
    REQUIRE(record.notes.size() == 1);
    CHECK(record.notes[0].find("not refitted") != std::string::npos);
  }
}

TEST_CASE("too few iterations are noted, and still no row is worse") {
  Problem problem = make_problem(8, 64);
  problem.options.iterations = 2;
  SolveRecord record;
  const std::vector<float> values = refitted(problem, record);
  REQUIRE(record.notes.size() == 1);
  CHECK(record.notes[0].find("8 of 8 rows") != std::string::npos);
  const Doubles h = problem.metric();
  for (std::uint64_t row = 0; row < 8; ++row) {
    const Doubles b = problem.target(h, row);
    CHECK(Problem::error(h, b, problem.row_of(values, row)) <
          Problem::error(h, b, problem.row_of(problem.pruned, row)));
  }
}

TEST_CASE("wrong options and sizes of a refit are refused") {
  const Problem problem = make_problem(4, 24);
  const auto refuses = [&](auto change) {
    Problem bad = problem;
    change(bad);
    SolveRecord record;
    CHECK_THROWS_AS(refitted(bad, record), Error);
  };
  refuses([](Problem& p) { p.options.dampening_frac = -1; });
  refuses([](Problem& p) { p.options.tolerance = 0; });
  refuses([](Problem& p) { p.options.asymmetric = 1.5; });
  refuses([](Problem& p) { p.mask.pop_back(); });
  refuses([](Problem& p) { p.original.pop_back(); });
  refuses([](Problem& p) { p.options.kind = Refit::none, p.options.residual = 1; });
  CHECK_THROWS_AS(make_wanda({{"refit", "best"}}), Error);
  CHECK_THROWS_AS(make_magnitude({{"asymmetric", 0.5}}), Error);
}

TEST_CASE("a corrected bias keeps the mean output") {
  const std::uint64_t rows = 3, cols = 5;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> original(rows * cols), pruned(rows * cols), mean(cols), bias(rows);
  for (auto* values : {&original, &mean, &bias}) {
    for (float& value : *values) value = normal(random);
  }
  for (std::size_t i = 0; i < pruned.size(); ++i) pruned[i] = i % 2 == 0 ? original[i] : 0;
  const std::vector<float> before = bias;
  correct_bias(bias, original, pruned, mean, 2);
  for (std::uint64_t r = 0; r < rows; ++r) {
    double dense = before[r], sparse = bias[r];
    for (std::uint64_t c = 0; c < cols; ++c) {
      dense += static_cast<double>(original[r * cols + c]) * mean[c];
      sparse += static_cast<double>(pruned[r * cols + c]) * mean[c];
    }
    CHECK(sparse == Approx(dense).epsilon(1e-6));
  }
  CHECK_THROWS_AS(correct_bias(bias, original, pruned, std::span(mean).first(4)), Error);
  mean[2] = INFINITY;
  CHECK_THROWS_AS(correct_bias(bias, original, pruned, mean), Error);
}
