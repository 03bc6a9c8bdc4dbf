// From the range of a group to its scale and zero point.
#pragma once

#include "quant/algorithm.h"
#include "quant/scale_rules.h"

namespace quant::rtn {

using Rules = ScaleRules;

inline Rules make_rules(const QuantArgs& args, DType scale_dtype, float global_scale) {
  return make_scale_rules(args, scale_dtype, global_scale);
}

using quant::effective_scales;
using quant::scales_of_absmax;
using quant::scales_of_ranges;

}  // namespace quant::rtn
