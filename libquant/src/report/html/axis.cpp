#include "report/html/axis.h"

#include <cmath>

namespace quant::report {

double nice_step(double span, int most) {
  if (!(span > 0) || !std::isfinite(span)) return 1;
  const double raw = span / most;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> linear_ticks(double low, double high, int most) {
  const double step = nice_step(high - low, most);
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (int i = 0; i <= most; ++i) {
    const double tick = (first + i) * step;
    if (tick > high + 1e-9 * step) break;
    ticks.push_back(tick);
  }
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const std::vector<std::vector<double>> choices{{1}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}};
  std::vector<double> ticks;
  for (const std::vector<double>& mantissas : choices) {
    ticks.clear();
    for (int exponent = static_cast<int>(std::floor(low)); exponent <= static_cast<int>(std::ceil(high)); ++exponent) {
      for (const double mantissa : mantissas) {
        const double at = exponent + std::log10(mantissa);
        if (at >= low && at <= high) ticks.push_back(mantissa * std::pow(10.0, exponent));
      }
    }
    if (ticks.size() >= 3) break;
  }
  return ticks;
}

}  // namespace quant::report
