// The search kernel and its power function.
#include <cmath>

#include "kernels/random_rows.h"
#include "quant/error.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

// |w|^norm through the kernel: one weight, far from a code that only reaches 0.
double power_through_kernel(const KernelTable& table, const PowerTable& power, float x) {
  const float scale = 1.0F;
  double error = 0;
  table.search({&x, nullptr, 1, Element::integer, 0, 0, &scale, nullptr, 1, 1.0F, &power, &error});
  return error;
}

std::vector<double> search(const KernelTable& table, const std::vector<float>& weights,
                           const std::vector<float>* importance, Element element, const std::vector<float>& scales,
                           const std::vector<float>* zeros, const PowerTable& power) {
  std::vector<double> errors(scales.size(), 0.25);
  table.search({weights.data(), importance == nullptr ? nullptr : importance->data(), weights.size(), element, -8, 7,
                scales.data(), zeros == nullptr ? nullptr : zeros->data(), scales.size(), scales[0], &power,
                errors.data()});
  return errors;
}

double expected_error(const std::vector<float>& weights, const std::vector<float>* importance, Element element,
                      double scale, double zero, double norm, double unit) {
  double total = 0.25;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double t = weights[i] / scale;
    double value = std::nearbyint(std::fmin(std::fmax(t + zero, -8.0), 7.0)) - zero;
    if (element == Element::e2m1) value = e2m1_to_f32(f32_to_e2m1(static_cast<float>(t)));
    if (element == Element::e4m3) value = e4m3_to_f32(f32_to_e4m3(static_cast<float>(t)));
    if (element == Element::e5m2) value = e5m2_to_f32(f32_to_e5m2(static_cast<float>(t)));
    total += (importance == nullptr ? 1.0 : (*importance)[i]) *
             std::pow(std::fabs(t - value) * std::fabs(scale / unit), norm);
  }
  return total;
}

}  // namespace

TEST_CASE("powers are accurate to 1e-6 over the whole table, on every instruction set the same") {
  for (const double norm : {0.5, 1.0, 2.0, 2.4, 3.0, 4.0}) {
    const PowerTable power = make_power_table(norm);
    double worst = 0;
    for (float x = 0x1p-14F; x < 130000.0F; x *= 1.0137F) {
      const double first = power_through_kernel(*available_kernels().front(), power, x);
      const double expected = std::pow(static_cast<double>(x), norm);
      worst = std::max(worst, std::fabs(first / expected - 1));
      for (const KernelTable* table : available_kernels()) {
        if (power_through_kernel(*table, power, x) != first) FAIL(table->isa << " differs at " << x);
      }
    }
    INFO("norm " << norm);
    CHECK(worst < (norm < 1 ? 4e-6 : 1.5e-6));
  }
}

TEST_CASE("errors of no size are none, and those beyond the table stay finite") {
  const PowerTable power = make_power_table(2.4);
  for (const KernelTable* table : available_kernels()) {
    CHECK(power_through_kernel(*table, power, 0.0F) == 0);
    CHECK(power_through_kernel(*table, power, 1e-30F) == 0);
    CHECK(std::isfinite(power_through_kernel(*table, power, 1e30F)));
  }
}

TEST_CASE("a norm outside its bounds is refused") {
  for (const double norm : {0.0, -1.0, 7.5, std::nan("")}) CHECK_THROWS_AS(make_power_table(norm), Error);
}

TEST_CASE("candidate errors equal their definition, on every table the same bits") {
  std::vector<float> importance;
  for (std::size_t i = 0; i < 300; ++i) importance.push_back(static_cast<float>(i % 7) * 0.5F);
  for (const std::size_t count : {1U, 16U, 31U, 128U, 300U}) {
    const auto weights = pattern_values(Pattern::gaussian, count, 23);
    for (const Element element : {Element::integer, Element::e2m1, Element::e4m3, Element::e5m2}) {
      const float base = element == Element::integer ? 0.008F
                         : element == Element::e2m1  ? 0.01F
                         : element == Element::e4m3  ? 1.3e-4F
                                                     : 1e-6F;
      const std::vector<float> scales{base, base * 0.9F, base * 0.5F, base * 1.1F}, zeros{0, -3, 5, 7};
      for (const double norm : {2.0, 2.4}) {
        const PowerTable power = make_power_table(norm);
        for (int variant = 0; variant < 4; ++variant) {
          const auto* weighted = variant % 2 == 0 ? nullptr : &importance;
          const auto* zero = variant < 2 || element != Element::integer ? nullptr : &zeros;
          const auto first = search(*available_kernels().front(), weights, weighted, element, scales, zero, power);
          for (std::size_t i = 0; i < scales.size(); ++i) {
            const double expected = expected_error(weights, weighted, element, scales[i],
                                                   zero == nullptr ? 0.0 : zeros[i], norm, scales[0]);
            CHECK(first[i] == Approx(expected).epsilon(1e-4));
          }
          for (const KernelTable* table : available_kernels()) {
            CHECK(same_bits(first, search(*table, weights, weighted, element, scales, zero, power)));
          }
        }
      }
    }
  }
}
