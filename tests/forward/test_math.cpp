// Elementary functions of every instruction set: against float64, and against each other.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "quant/kernels.h"
#include "support/catch.h"

using namespace quant;

namespace {

// Values of all sizes, in odd number so that a vector stays incomplete; both signs; dense where the functions bend.
std::vector<float> samples() {
  std::mt19937 random(5);
  std::vector<float> x{0.0F, -0.0F, 1e-45F, -1e-45F, 1e-38F, 88.0F, -88.0F, 104.0F, -104.0F, 3e38F, -3e38F};
  std::uniform_real_distribution<float> near(-6.0F, 6.0F), far(-120.0F, 120.0F), exponent(-40.0F, 10.0F);
  for (int i = 0; i < 40000; ++i) x.insert(x.end(), {near(random), far(random), std::exp2(exponent(random))});
  x.push_back(0.6F);
  return x;
}

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

struct Function {
  MathFunction function;
  const char* name;
  std::function<double(double)> exact;
  double units;      // allowed error
  double slope = 0;  // and so much more for each unit of an exponent that is itself a rounded product
};

// Allowed errors are what is measured, rounded up.
std::vector<Function> functions() {
  return {
      {MathFunction::silu, "silu", [](double x) { return x * sigmoid(x); }, 4},
      {MathFunction::gelu, "gelu", [](double x) { return x * std::erfc(-x / std::sqrt(2.0)) / 2; }, 5},
      {MathFunction::gelu_tanh, "gelu_tanh",
       [](double x) { return x * sigmoid(2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)); }, 4, 3},
      {MathFunction::quick_gelu, "quick_gelu", [](double x) { return x * sigmoid(1.702 * x); }, 4, 1.5},
      {MathFunction::relu, "relu", [](double x) { return std::max(x, 0.0); }, 0},
      {MathFunction::relu2, "relu2", [](double x) { return std::max(x, 0.0) * std::max(x, 0.0); }, 0.5},
      {MathFunction::tanh, "tanh", [](double x) { return std::tanh(x); }, 2},
      {MathFunction::sigmoid, "sigmoid", sigmoid, 3},
  };
}

// In units of the last place of the exact value; of 2^-119 below that: these are products of subnormal numbers, which
// have few digits.
double error_units(float value, double exact) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (std::abs(exact) > kLargest) return std::isinf(value) && (value > 0) == (exact > 0) ? 0 : INFINITY;
  int exponent = 0;
  std::frexp(std::max(std::abs(exact), std::ldexp(1.0, -119)), &exponent);
  return std::abs(static_cast<double>(value) - exact) / std::ldexp(1.0, exponent - 24);
}

}  // namespace

TEST_CASE("Activation functions are right to a few units of the last place") {
  const std::vector<float> x = samples();
  std::vector<float> out(x.size());
  for (const KernelTable* table : available_kernels()) {
    for (const Function& f : functions()) {
      table->math.apply(f.function, x.data(), out.data(), x.size());
      double worst = 0;
      float worst_at = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto at = static_cast<double>(x[i]);
        const double exact = f.exact(at);
        const double exponent = f.slope == 0 || exact == 0 ? 0 : std::abs(std::log(std::abs(exact / at)));
        const double units = error_units(out[i], exact) - f.slope * exponent;
        if (!(units <= worst)) worst_at = x[i];
        worst = units <= worst ? worst : units;
      }
      INFO(table->isa << " " << f.name << " at " << worst_at << ": " << worst << " units");
      CHECK(worst <= f.units);
    }
  }
}

TEST_CASE("Softcap bounds by a scaled tanh") {
  const std::vector<float> x = samples();
  std::vector<float> out(x.size());
  for (const KernelTable* table : available_kernels()) {
    table->math.softcap(30.0F, x.data(), out.data(), x.size());
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, error_units(out[i], 30 * std::tanh(static_cast<double>(x[i]) / 30)));
    }
    CHECK(worst <= 3);
  }
}

TEST_CASE("NaN stays NaN in every function") {
  const std::vector<float> x(19, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> out(x.size());
  for (const KernelTable* table : available_kernels()) {
    for (const Function& f : functions()) {
      table->math.apply(f.function, x.data(), out.data(), x.size());
      for (const float y : out) CHECK(std::isnan(y));
    }
    out.assign(19, 1.0F);
    out[17] = x[0];
    CHECK(std::isnan(table->math.softmax(out.data(), out.size())));
  }
}

TEST_CASE("Softmax of rows of every length") {
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0.0F, 8.0F);
  for (const KernelTable* table : available_kernels()) {
    for (const std::size_t n : {1, 2, 15, 16, 17, 127, 128, 129, 1000, 5000}) {
      std::vector<float> x(n);
      for (float& value : x) value = normal(random);
      const std::vector<float> before = x;
      const double top = static_cast<double>(*std::max_element(x.begin(), x.end()));
      const double sum = table->math.softmax(x.data(), n);
      double exact_sum = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const double exact = std::exp(static_cast<double>(before[i]) - top);
        exact_sum += exact;
        CHECK(std::abs(static_cast<double>(x[i]) - exact) <= 4e-6 * exact + 1e-45);
      }
      CHECK(sum == Approx(exact_sum).epsilon(1e-6));
    }
    std::vector<float> hidden{1.0F, -INFINITY, 1.0F};
    CHECK(table->math.softmax(hidden.data(), 3) == 2.0);
    CHECK(hidden == std::vector<float>{1.0F, 0.0F, 1.0F});
    CHECK(table->math.softmax(hidden.data(), 0) == 0.0);
  }
}

TEST_CASE("Sums of every length") {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(3.0F, 1.0F);
  for (const KernelTable* table : available_kernels()) {
    for (const std::size_t n : {0, 1, 15, 16, 17, 127, 128, 129, 4096, 11008}) {
      std::vector<float> x(n);
      for (float& value : x) value = normal(random);
      double sum = 0, squares = 0;
      for (const float value : x) {
        sum += static_cast<double>(value);
        squares += (static_cast<double>(value) - 2.5) * (static_cast<double>(value) - 2.5);
      }
      CHECK(table->math.sum(x.data(), n) == Approx(sum).epsilon(3e-7));
      CHECK(table->math.sum_squares(x.data(), 2.5F, n) == Approx(squares).epsilon(3e-7));
    }
  }
}

TEST_CASE("Every instruction set gives the same bits in the forward pass") {
  const std::vector<float> x = samples();
  const auto bits = [](const std::vector<float>& values) {
    std::vector<std::uint32_t> out;
    for (const float value : values) out.push_back(std::bit_cast<std::uint32_t>(value));
    return out;
  };
  const MathKernels& scalar = available_kernels().front()->math;
  std::vector<float> a(x.size()), b(x.size());
  for (const KernelTable* table : available_kernels()) {
    INFO(table->isa);
    for (const Function& f : functions()) {
      scalar.apply(f.function, x.data(), a.data(), x.size());
      table->math.apply(f.function, x.data(), b.data(), x.size());
      CHECK(bits(a) == bits(b));
    }
    a = b = x;
    CHECK(scalar.softmax(a.data() + 11, 2001) == table->math.softmax(b.data() + 11, 2001));
    CHECK(bits(a) == bits(b));
    CHECK(scalar.sum(x.data() + 11, 3001) == table->math.sum(x.data() + 11, 3001));
    CHECK(scalar.sum_squares(x.data() + 11, 0.3F, 3001) == table->math.sum_squares(x.data() + 11, 0.3F, 3001));
    for (const Element element : {Element::integer, Element::e2m1, Element::e4m3, Element::e5m2}) {
      const std::vector<float> scales{0.37F, 0.011F, 2.0F}, zeros{3.0F, -2.0F, 0.0F};
      for (const float* zero : {static_cast<const float*>(nullptr), zeros.data()}) {
        if (zero != nullptr && element != Element::integer) continue;
        a = b = x;
        scalar.fake_quantize({a.data(), element, 1001, 400, scales.data(), zero, -8, 7});
        table->math.fake_quantize({b.data(), element, 1001, 400, scales.data(), zero, -8, 7});
        CHECK(bits(a) == bits(b));
      }
    }
  }
}
