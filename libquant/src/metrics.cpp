#include "quant/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/report.h"

namespace quant {

namespace {

// A ratio of two sums of squares: 0/0 is a perfect result, x/0 an infinitely bad one.
double ratio(double numerator, double denominator) {
  if (denominator != 0) return numerator / denominator;
  return numerator == 0 ? 0 : std::numeric_limits<double>::infinity();
}

double fraction(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double cosine(const ErrorSums& sums) {
  if (sums.signal == 0 && sums.recon == 0) return 1;
  if (sums.signal == 0 || sums.recon == 0) return 0;
  // Two roots instead of one of the product, which may leave the range of double.
  return sums.dot / (std::sqrt(sums.signal) * std::sqrt(sums.recon));
}

}  // namespace

ErrorSums& ErrorSums::operator+=(const ErrorSums& other) {
  signal += other.signal;
  noise += other.noise;
  dot += other.dot;
  recon += other.recon;
  max_abs_error = std::max(max_abs_error, other.max_abs_error);
  count += other.count;
  clipped += other.clipped;
  zeros += other.zeros;
  return *this;
}

WeightMetrics summarize(const ErrorSums& sums) {
  WeightMetrics metrics;
  metrics.nmse = ratio(sums.noise, sums.signal);
  metrics.sqnr_db = 0.0 - 10.0 * std::log10(metrics.nmse);  // not -0 for an NMSE of 1
  metrics.cosine = cosine(sums);
  metrics.rmse = sums.count == 0 ? 0 : std::sqrt(sums.noise / static_cast<double>(sums.count));
  metrics.max_abs_error = sums.max_abs_error;
  metrics.clipped_fraction = fraction(sums.clipped, sums.count);
  metrics.zero_fraction = fraction(sums.zeros, sums.count);
  return metrics;
}

WeightMetrics summarize(const OutputErrors& errors) {
  ErrorSums sums;
  sums.signal = errors.signal;
  sums.noise = errors.noise;
  sums.dot = errors.dot;
  sums.recon = errors.recon;
  return summarize(sums);
}

ErrorSums measure_values(std::span<const float> reference, std::span<const float> approximation) {
  if (reference.size() != approximation.size()) {
    throw Error(ErrorCode::usage, "measure_values: " + std::to_string(reference.size()) + " reference values against " +
                                      std::to_string(approximation.size()) + " approximations");
  }
  // Independent lanes, added in a fixed order at the end: the compiler may use vector registers, and the result is the
  // same with any of them.
  constexpr std::size_t kLanes = 8;
  struct Lane {
    std::array<double, kLanes> value{};
    double total() const {
      double sum = 0;
      for (const double part : value) sum += part;
      return sum;
    }
  };
  Lane signal, noise, dot, recon;
  double max_abs_error = 0;
  std::uint64_t zeros = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double w = reference[i];
    const double v = approximation[i];
    const double error = w - v;
    const std::size_t lane = i % kLanes;
    signal.value[lane] += w * w;
    noise.value[lane] += error * error;
    dot.value[lane] += w * v;
    recon.value[lane] += v * v;
    max_abs_error = std::max(max_abs_error, std::abs(error));
    zeros += v == 0 ? 1 : 0;
  }
  return {signal.total(), noise.total(), dot.total(), recon.total(), max_abs_error, reference.size(), 0, zeros};
}

}  // namespace quant
