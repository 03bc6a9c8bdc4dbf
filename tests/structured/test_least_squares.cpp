// Fitted columns against normal equations that are solved here in float64.
#include <random>

#include "quant/linalg.h"
#include "structured/least_squares.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::structured;

namespace {

using Matrix = std::vector<std::vector<double>>;

/// X with A X = B, by elimination with pivots.
Matrix solve(Matrix a, Matrix b) {
  const std::size_t n = a.size();
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t pivot = k;
    for (std::size_t r = k; r < n; ++r) pivot = std::abs(a[r][k]) > std::abs(a[pivot][k]) ? r : pivot;
    std::swap(a[k], a[pivot]), std::swap(b[k], b[pivot]);
    for (std::size_t r = 0; r < n; ++r) {
      if (r == k) continue;
      const double factor = a[r][k] / a[k][k];
      for (std::size_t c = k; c < n; ++c) a[r][c] -= factor * a[k][c];
      for (double& value : b[r]) value -= factor * b[k][static_cast<std::size_t>(&value - b[r].data())];
    }
  }
  for (std::size_t k = 0; k < n; ++k) {
    for (double& value : b[k]) value /= a[k][k];
  }
  return b;
}

struct Case {
  std::uint64_t rows = 7, cols = 12, tokens = 200;
  bool bias = false, model = false;
  Units kept = {0, 2, 3, 5, 8, 11};
  double damping = 0.01;
};

struct Samples {
  std::vector<float> x, f, r, s, w;  // with a column of ones and the bias where the case has one
};

Samples make(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const std::uint64_t n = c.cols + (c.bias ? 1 : 0);
  Samples samples;
  for (std::uint64_t t = 0; t < c.tokens; ++t) {
    const float common = normal(random) + 0.5F;
    for (std::uint64_t k = 0; k < n; ++k) {
      const bool one = c.bias && k == c.cols;
      const float value = one ? 1.0F : normal(random) + common;
      samples.x.push_back(value);
      samples.f.push_back(one ? 1.0F : value + 0.2F * normal(random));
    }
    for (std::uint64_t o = 0; o < c.rows; ++o) {
      samples.r.push_back(normal(random));
      samples.s.push_back(samples.r.back() + 0.3F * common);
    }
  }
  for (std::uint64_t i = 0; i < c.rows * n; ++i) samples.w.push_back(normal(random));
  return samples;
}

FitProblem problem_of(const Case& c, const Samples& samples) {
  const std::uint64_t n = c.cols + (c.bias ? 1 : 0);
  GramAccumulator gram(n, ProductType::f32, c.model, c.model ? c.rows : 0);
  if (c.model) gram.add(samples.x, samples.f, samples.r, samples.s, c.tokens, 2);
  if (!c.model) gram.add(samples.x, {}, c.tokens, 2);
  FitProblem problem;
  problem.rows = c.rows;
  problem.cols = n;
  problem.bias = c.bias;
  problem.weight = samples.w;
  problem.gram = gram.take_gram(2);
  if (c.model) problem.cross = gram.take_cross(2);
  if (c.model) problem.missing = gram.take_outputs(2);
  problem.kept = c.kept;
  problem.damping = c.damping;
  return problem;
}

/// The same in float64, straight from the samples.
Matrix expected_fit(const Case& c, const Samples& samples) {
  const std::uint64_t n = c.cols + (c.bias ? 1 : 0);
  Units columns = c.kept;
  if (c.bias) columns.push_back(static_cast<std::uint32_t>(c.cols));
  const auto at = [&](const std::vector<float>& m, std::uint64_t t, std::uint64_t k, std::uint64_t width) {
    return static_cast<double>(m[t * width + k]);
  };
  Matrix a(columns.size(), std::vector<double>(columns.size())), b(columns.size(), std::vector<double>(c.rows));
  double diagonal = 0;
  for (std::uint64_t t = 0; t < c.tokens; ++t) {
    std::vector<double> target(c.rows);
    for (std::uint64_t o = 0; o < c.rows; ++o) {
      for (std::uint64_t k = 0; k < n; ++k) {
        target[o] += static_cast<double>(samples.w[o * n + k]) * at(c.model ? samples.f : samples.x, t, k, n);
      }
      if (c.model) target[o] += at(samples.r, t, o, c.rows) - at(samples.s, t, o, c.rows);
    }
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const double x = at(samples.x, t, columns[i], n) / static_cast<double>(c.tokens);
      for (std::size_t j = 0; j < columns.size(); ++j) a[i][j] += x * at(samples.x, t, columns[j], n);
      for (std::uint64_t o = 0; o < c.rows; ++o) b[i][o] += x * target[o];
    }
  }
  for (std::size_t i = 0; i < c.kept.size(); ++i) diagonal += a[i][i] / static_cast<double>(c.kept.size());
  for (std::size_t i = 0; i < c.kept.size(); ++i) {
    a[i][i] += c.damping * diagonal;
    for (std::uint64_t o = 0; o < c.rows; ++o) {
      b[i][o] += c.damping * diagonal * static_cast<double>(samples.w[o * n + columns[i]]);
    }
  }
  return solve(a, b);
}

}  // namespace

TEST_CASE("fitted columns solve the normal equations") {
  for (const bool bias : {false, true}) {
    for (const bool model : {false, true}) {
      for (const double damping : {0.0, 0.01, 0.3}) {
        INFO("bias " << bias << ", model " << model << ", damping " << damping);
        Case c;
        c.bias = bias, c.model = model, c.damping = damping;
        const Samples samples = make(c, 5);
        FitProblem problem = problem_of(c, samples);
        const Fit fit = fit_columns(problem, 2);
        CHECK(fit.fallback.empty());
        CHECK(fit.damping == damping);
        const Matrix expected = expected_fit(c, samples);
        const std::uint64_t n = c.cols + (bias ? 1 : 0);
        double worst = 0;
        std::size_t zeros = 0;
        for (std::uint64_t o = 0; o < c.rows; ++o) {
          for (std::size_t k = 0; k < expected.size(); ++k) {
            const std::uint64_t column = k < c.kept.size() ? c.kept[k] : c.cols;
            worst = std::max(worst, std::abs(fit.weight[o * n + column] - expected[k][o]));
          }
          for (std::uint64_t k = 0; k < n; ++k) zeros += fit.weight[o * n + k] == 0 ? 1 : 0;
        }
        CHECK(worst < 2e-4);
        CHECK(zeros == c.rows * (c.cols - c.kept.size()));
      }
    }
  }
}

TEST_CASE("keeping all columns keeps the weights, and fewer never fit worse than leaving them out") {
  Case c;
  const Samples samples = make(c, 9);
  FitProblem problem = problem_of(c, samples);
  problem.kept = all_units(c.cols);
  const Fit same = fit_columns(problem, 1);
  for (std::size_t i = 0; i < same.weight.size(); ++i) CHECK(same.weight[i] == Approx(samples.w[i]).margin(2e-5));
  problem = problem_of(c, samples);
  const Fit fit = fit_columns(problem, 1);
  const auto plain = without_columns(problem.weight, c.rows, c.cols, c.kept, false);
  const auto fitted = output_errors(problem.weight, fit.weight, c.rows, problem.gram, c.cols, 1);
  const auto left = output_errors(problem.weight, plain, c.rows, problem.gram, c.cols, 1);
  CHECK(fitted.noise < 0.7 * left.noise);
  CHECK(fitted.signal == left.signal);
}

TEST_CASE("threads change no bit; singular and empty statistics fall back and say so") {
  Case c;
  c.tokens = 3;
  c.damping = 0;
  const Samples samples = make(c, 11);
  FitProblem problem = problem_of(c, samples);
  const Fit one = fit_columns(problem, 1);
  const Fit three = fit_columns(problem, 3);
  CHECK(one.weight == three.weight);
  CHECK(one.damping > 0);  // three tokens cannot tell six columns apart
  std::fill(problem.gram.begin(), problem.gram.end(), 0.0F);
  const Fit empty = fit_columns(problem, 1);
  CHECK(empty.fallback.find("zero") != std::string::npos);
  CHECK(empty.weight == without_columns(problem.weight, c.rows, c.cols, c.kept, false));
  problem.gram[0] = std::numeric_limits<float>::infinity();
  problem.gram[c.cols + 1] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(fit_columns(problem, 1).fallback.empty());
}
