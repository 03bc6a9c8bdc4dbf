#include <cmath>
#include <cstdlib>
#include <string>

#include "kernels/cpu/tables.h"
#include "quant/error.h"
#include "quant/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quant {
namespace {

#if defined(__x86_64__)
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && has_f16c(); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const KernelTable& table_in_use() {
  const char* wanted = std::getenv("QUANT_ISA");
  return select_kernels(wanted == nullptr ? "" : wanted);
}

// Coefficients of 1, x, ... of the polynomial through (x[i], y[i]): Newton's divided differences, expanded.
void interpolate(const double (&x)[6], double (&y)[6], double (&coefficients)[6]) {
  for (int order = 1; order < 6; ++order) {
    for (int i = 5; i >= order; --i) y[i] = (y[i] - y[i - 1]) / (x[i] - x[i - order]);
  }
  for (double& c : coefficients) c = 0;
  for (int i = 5; i >= 0; --i) {  // coefficients = coefficients * (t - x[i]) + y[i]
    for (int k = 5; k > 0; --k) coefficients[k] = coefficients[k - 1] - x[i] * coefficients[k];
    coefficients[0] = y[i] - x[i] * coefficients[0];
  }
}

}  // namespace

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> list{&cpu::kScalarTable};
#if defined(__x86_64__)
    if (has_avx2()) list.push_back(&cpu::kAvx2Table);
    if (has_avx512()) list.push_back(&cpu::kAvx512Table);
#endif
    return list;
  }();
  return tables;
}

const KernelTable& select_kernels(std::string_view isa) {
  const auto& tables = available_kernels();
  if (isa.empty()) return *tables.back();
  std::string names;
  for (const KernelTable* table : tables) {
    if (isa == table->isa) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->isa);
  }
  throw Error(ErrorCode::usage, "QUANT_ISA is '" + std::string(isa) + "', which this processor or build does not have",
              "use one of: " + names);
}

const KernelTable& kernels() {
  static const KernelTable& table = table_in_use();
  return table;
}

Element element_of(DType type) {
  switch (type) {
    case DType::F4:
      return Element::e2m1;
    case DType::F8_E4M3:
      return Element::e4m3;
    case DType::F8_E5M2:
      return Element::e5m2;
    default:
      return Element::integer;
  }
}

PowerTable make_power_table(double norm) {
  if (!(norm > 0) || norm > 7) {
    throw Error(ErrorCode::usage, "norm is " + std::to_string(norm) + ", outside 0 < norm <= 7");
  }
  constexpr double kPi = 3.14159265358979323846;
  double x[6], y[6], coefficients[6];
  for (int i = 0; i < 6; ++i) {  // Chebyshev nodes of [1, 2]
    x[i] = 1.5 + 0.5 * std::cos(kPi * (i + 0.5) / 6);
    y[i] = std::pow(x[i], norm);
  }
  interpolate(x, y, coefficients);
  PowerTable table{};
  for (int i = 0; i < 6; ++i) table.coefficients[i] = static_cast<float>(coefficients[i]);
  for (int i = 1; i < 32; ++i) table.powers[i] = static_cast<float>(std::exp2(norm * (i - 15)));
  table.square = norm == 2.0;
  return table;
}

}  // namespace quant
