// What holds for every registered algorithm that removes weights, for every pattern that it accepts and every shape.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "gptq/helpers.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "quant/sparsify.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

struct Named {
  std::string name;
  std::unique_ptr<Algorithm> algorithm;
  const Sparsifier& sparsifier() const { return dynamic_cast<const Sparsifier&>(*algorithm); }
};

// Each with its defaults, and with the values of its parameters that make another method of it.
std::vector<Named> sparsifiers() {
  static const Registry registry = [] {
    Registry all;
    register_builtin_algorithms(all);
    return all;
  }();
  const std::vector<Parameters> ways = {{},
                                        {{"variant", "cumulative"}},
                                        {{"threshold", "reference"}},
                                        {{"preserve_sparsity_mask", true}},
                                        {{"refit", "scale"}},
                                        {{"refit", "exact"}},
                                        {{"mask_search", "admm"}, {"refit", "exact"}}};
  std::vector<Named> list;
  for (const AlgorithmEntry& entry : registry.algorithms()) {
    if (entry.create({})->role() != Role::sparsify) continue;
    for (const Parameters& way : ways) {
      std::string name = entry.name;
      const bool known = std::all_of(way.begin(), way.end(), [&](const auto& given) {
        name += " " + given.first;
        return std::any_of(entry.parameters.begin(), entry.parameters.end(),
                           [&](const ParameterSpec& spec) { return spec.name == given.first; });
      });
      if (known) list.push_back({name, entry.create(way)});
    }
  }
  return list;
}

struct Matrix {
  std::uint64_t rows, cols;
  std::vector<float> weights;
  std::vector<std::uint8_t> mask;
  SolveRecord record;
};

// Row 0 all 0, some zeros elsewhere, no two equal magnitudes besides.
Matrix sample(std::uint64_t rows, std::uint64_t cols, bool zeros = true) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
  std::normal_distribution<float> normal(0.0F, 0.05F);
  Matrix matrix{rows, cols, std::vector<float>(rows * cols), std::vector<std::uint8_t>(rows * cols, 1), {}};
  for (std::size_t i = 0; i < matrix.weights.size(); ++i) {
    matrix.weights[i] = zeros && (i < cols || random() % 50 == 0) ? 0 : normal(random);
  }
  return matrix;
}

void prune(const Sparsifier& sparsifier, Matrix& matrix, const SparsityPattern& pattern, const InputStatistics& inputs,
           int threads = 2) {
  PruneTask task;
  task.module = "model.layers.0.mlp.up_proj";
  task.rows = matrix.rows;
  task.cols = matrix.cols;
  task.weight = matrix.weights;
  task.mask = matrix.mask;
  task.pattern = pattern;
  RunContext context;
  context.threads = threads;
  sparsifier.prune({&task, 1}, inputs, context);
  matrix.record = task.record;
}

std::uint64_t ones(const std::vector<std::uint8_t>& mask) {
  return static_cast<std::uint64_t>(std::count(mask.begin(), mask.end(), 1));
}

std::vector<SparsityPattern> patterns() {
  std::vector<SparsityPattern> list;
  for (const double share : {0.0, 0.37, 0.5, 0.9, 1.0}) {
    SparsityPattern pattern;
    pattern.sparsity = share;
    list.push_back(pattern);
  }
  for (const char* text : {"2:4", "1:4", "5:8", "30:60"}) list.push_back(parse_pattern(text));
  for (const char* text : {"4x1", "1x8", "3x5", "200x300"}) {
    list.push_back(parse_pattern(text));
    list.back().sparsity = 0.4;
  }
  return list;
}

constexpr std::pair<std::uint64_t, std::uint64_t> kShapes[] = {{1, 1}, {5, 1}, {1, 40}, {12, 40}, {70, 120}, {9, 257}};

// Whether the same weights are 0 and the mask is 0 nowhere else.
bool zeros_match(const Matrix& before, const Matrix& after) {
  for (std::size_t i = 0; i < after.mask.size(); ++i) {
    if (after.mask[i] > 1) return false;
    if (after.mask[i] == 0 && after.weights[i] != 0) return false;
    if (after.mask[i] == 1 && after.weights[i] == 0 && before.weights[i] != 0) return false;
    if (!std::isfinite(after.weights[i])) return false;
  }
  return true;
}

bool possible(const Sparsifier& sparsifier, const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols) {
  return !sparsifier.unsupported_pattern(pattern) && !contradiction(pattern, rows, cols);
}

InputStatistics without_inputs(std::uint64_t cols) {
  InputStatistics inputs;
  inputs.cols = cols;
  return inputs;
}

}  // namespace

TEST_CASE("every sparsifier removes what its pattern says, to the weight") {
  REQUIRE(sparsifiers().size() >= 4);
  for (const Named& named : sparsifiers()) {
    for (const auto& [rows, cols] : kShapes) {
      InputStatistics dead = correlated_inputs(cols, 300);
      for (std::uint64_t c = 0; c < cols; c += 3) {
        for (std::uint64_t k = 0; k < cols; ++k) dead.gram[c * cols + k] = dead.gram[k * cols + c] = 0;
      }
      for (const InputStatistics& inputs : {correlated_inputs(cols, 300), dead, without_inputs(cols)}) {
        for (const SparsityPattern& pattern : patterns()) {
          if (!possible(named.sparsifier(), pattern, rows, cols)) continue;
          INFO(named.name << " " << describe(pattern) << " " << rows << "x" << cols << " tokens " << inputs.tokens);
          const Matrix before = sample(rows, cols);
          Matrix after = before;
          prune(named.sparsifier(), after, pattern, inputs);
          CHECK(zeros_match(before, after));
          const auto kept = named.sparsifier().kept(pattern, rows, cols);
          if (kept) CHECK(ones(after.mask) == *kept);
          const bool noted = !after.record.fallback.empty() || !after.record.notes.empty();
          CHECK((inputs.tokens > 0 || !named.sparsifier().needs().any() || noted));
          if (!pattern.semi_structured() || named.name.starts_with("constant")) continue;
          std::size_t violations = 0;
          for (std::uint64_t i = 0; i < rows * cols; i += pattern.of) {
            const auto first = after.mask.begin() + static_cast<std::ptrdiff_t>(i);
            violations += std::count(first, first + pattern.of, 1) > pattern.keep ? 1 : 0;
          }
          CHECK(violations == 0);
        }
      }
    }
  }
}

TEST_CASE("what an earlier mask removed stays removed and counts") {
  for (const Named& named : sparsifiers()) {
    const std::uint64_t rows = 24, cols = 120;
    const InputStatistics inputs = correlated_inputs(cols, 300);
    for (const SparsityPattern& pattern : patterns()) {
      if (!possible(named.sparsifier(), pattern, rows, cols)) continue;
      Matrix before = sample(rows, cols, false);
      std::mt19937 random(2);
      for (std::size_t i = 0; i < before.mask.size(); ++i) before.mask[i] = random() % 4 == 0 ? 0 : 1;
      Matrix after = before;
      prune(named.sparsifier(), after, pattern, inputs);
      INFO(named.name << " " << describe(pattern));
      CHECK(zeros_match(before, after));
      std::size_t back = 0;
      for (std::size_t i = 0; i < before.mask.size(); ++i) back += before.mask[i] == 0 && after.mask[i] == 1 ? 1 : 0;
      CHECK(back == 0);
      const auto kept = named.sparsifier().kept(pattern, rows, cols);
      const bool few = pattern.semi_structured() || pattern.blocks() || pattern.sparsity < 0.5;
      if (kept && !few) CHECK(ones(after.mask) == *kept);
      if (kept) CHECK(ones(after.mask) <= *kept);
    }
  }
}

TEST_CASE("zeros of the weights count where the recipe preserves them") {
  for (const Named& named : sparsifiers()) {
    if (named.name.find("preserve") == std::string::npos && named.name != "constant") continue;
    Matrix before = sample(12, 40);
    Matrix after = before;
    SparsityPattern pattern;
    pattern.sparsity = 0.5;
    prune(named.sparsifier(), after, pattern, correlated_inputs(40, 300));
    std::size_t kept_zeros = 0;
    for (std::size_t i = 0; i < before.weights.size(); ++i) kept_zeros += before.weights[i] == 0 && after.mask[i] == 1;
    CHECK(kept_zeros == 0);
  }
}

TEST_CASE("masks and weights do not depend on the number of threads") {
  for (const Named& named : sparsifiers()) {
    const std::uint64_t rows = 200, cols = 240;
    const InputStatistics inputs = correlated_inputs(cols, 300);
    for (const SparsityPattern& pattern : patterns()) {
      if (!possible(named.sparsifier(), pattern, rows, cols)) continue;
      Matrix one = sample(rows, cols), five = one;
      prune(named.sparsifier(), one, pattern, inputs, 1);
      prune(named.sparsifier(), five, pattern, inputs, 5);
      INFO(named.name << " " << describe(pattern));
      CHECK(one.mask == five.mask);
      CHECK(one.weights == five.weights);
    }
  }
}

TEST_CASE("a weight that is not finite is refused as a numerical error that names its place") {
  for (const Named& named : sparsifiers()) {
    for (const float bad : {std::nanf(""), INFINITY}) {
      Matrix matrix = sample(9, 64);
      matrix.weights[6 * 64 + 33] = bad;
      SparsityPattern pattern;
      pattern.sparsity = 0.5;
      try {
        prune(named.sparsifier(), matrix, pattern, correlated_inputs(64, 300));
        FAIL("accepted");
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::numerical);
        CHECK(std::string(error.what()).find("row 6, column 33") != std::string::npos);
      }
    }
  }
}

TEST_CASE("inputs that are not finite end in a recorded fallback, very large weights in finite ones") {
  for (const Named& named : sparsifiers()) {
    SparsityPattern pattern;
    pattern.sparsity = 0.5;
    Matrix matrix = sample(12, 40);
    InputStatistics inputs = correlated_inputs(40, 300);
    inputs.gram[41] = std::nanf("");
    prune(named.sparsifier(), matrix, pattern, inputs);
    INFO(named.name);
    CHECK((!named.sparsifier().needs().any() || !matrix.record.fallback.empty() || !matrix.record.notes.empty()));
    for (float& weight : matrix.weights) weight *= 1e38F;
    Matrix large{12, 40, matrix.weights, std::vector<std::uint8_t>(480, 1), {}};
    const Matrix before = large;
    prune(named.sparsifier(), large, pattern, correlated_inputs(40, 300));
    CHECK(std::all_of(large.weights.begin(), large.weights.end(), [](float value) { return std::isfinite(value); }));
  }
}

TEST_CASE("wrong sizes and patterns are refused") {
  for (const Named& named : sparsifiers()) {
    if (named.name.starts_with("constant")) continue;
    Matrix matrix = sample(4, 10);
    CHECK_THROWS_AS(prune(named.sparsifier(), matrix, parse_pattern("2:4"), correlated_inputs(10, 300)), Error);
    Matrix wrong = sample(4, 10);
    wrong.mask.resize(39);
    CHECK_THROWS_AS(prune(named.sparsifier(), wrong, {}, correlated_inputs(10, 300)), Error);
    if (!named.sparsifier().needs().any()) continue;
    CHECK_THROWS_AS(prune(named.sparsifier(), matrix, {}, correlated_inputs(12, 300)), Error);
  }
}
