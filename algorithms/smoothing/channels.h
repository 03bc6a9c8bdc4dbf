// Columns of the readers, seen as channels of the producer: query heads that share a value head share its channels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/calibrated.h"

namespace quant::smoothing {

/// Throws Error{internal} unless the sizes of group and inputs fit each other.
void check_group(const SmoothingGroup& group, const InputStatistics& inputs);

enum class Pool { maximum, mean };
/// Replaces the values of columns that one channel feeds by their maximum or mean. values.size() == columns.
void pool_channels(const SmoothingGroup& group, Pool pool, std::span<double> values);

/// Largest |w| of each column over the group's quantized readers [cols].
std::vector<double> column_absmax(const SmoothingGroup& group, int threads);

}  // namespace quant::smoothing
