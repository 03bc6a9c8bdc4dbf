// The rows of a value that an input unit stands for.
#pragma once

#include <span>
#include <vector>

#include "plan/calibration_work.h"
#include "quant/forward.h"

namespace quant {

struct UnitRows {
  std::span<const float> values;
  std::uint64_t count = 0;
};

/// Rows of the unit's value; those of its expert only, if it has one.
UnitRows rows_of(const Program& program, const InputUnit& unit, const Values& values, std::uint64_t tokens,
                 bool all_experts);
/// Adds the values that rows_of needs.
void want(const Program& program, const InputUnit& unit, std::vector<ValueId>& wanted);
/// The first operation that reads the site's value: the value is complete there.
std::size_t first_reader(const Program& program, const SmoothingSite& site);

}  // namespace quant
