// Round numbers for the ticks of an axis.
#pragma once

#include <vector>

namespace quant::report {

/// The step of 1, 2 or 5 times a power of ten that cuts `span` into at most `most` parts.
double nice_step(double span, int most);
/// Multiples of the nice step within [low, high].
std::vector<double> linear_ticks(double low, double high, int most);
/// Values m x 10^e within [10^low, 10^high], with as many mantissas m as give at least three ticks if possible.
std::vector<double> log_ticks(double low, double high);

}  // namespace quant::report
