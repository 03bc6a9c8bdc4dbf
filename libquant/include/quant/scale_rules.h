// From the range of a group of values to its scale and zero point: the arithmetic of compressed-tensors, shared by
// weights and activations.
#pragma once

#include <cstddef>
#include <span>

#include "quant/kernel_table.h"
#include "quant/scheme.h"

namespace quant {

/// What the arguments say about scales and codes, resolved once per call.
struct ScaleRules {
  Element element = Element::integer;
  bool symmetric = true;
  SymmetricRange convention = SymmetricRange::standard;
  float code_min = 0, code_max = 0;  ///< integers
  float divisor = 1;                 ///< range / divisor = scale
  RoundTo round = RoundTo::f32;      ///< type that scales are stored in (not MX)
  float zero_scale = 1;              ///< what a scale of 0 becomes
  bool mx = false;
  int mx_offset = 0;       ///< exponent of the largest element
  bool two_level = false;  ///< NVFP4
  float global_scale = 1;
};

/// Throws Error{unsupported} for a scale type that scales cannot be rounded to.
ScaleRules make_scale_rules(const QuantArgs& args, DType scale_dtype, float global_scale);

/// Scales (as stored) of groups with these ranges; zero_points is empty if symmetric. The order of operations is that
/// of compressed-tensors' calculate_qparams in float32, with one difference: the zero point follows from the scale as
/// stored, not from the scale before it was rounded. Ranges must be finite; minima and maxima are overwritten.
void scales_of_ranges(const ScaleRules& rules, std::span<float> minima, std::span<float> maxima,
                      std::span<float> scales, std::span<float> zero_points);
/// The same for a symmetric convention that needs the largest magnitude only (not SymmetricRange::full).
void scales_of_absmax(const ScaleRules& rules, std::span<const float> absmax, std::span<float> scales);
/// What codes are multiplied by: the stored scale, or for NVFP4 its quotient by the global scale.
void effective_scales(const ScaleRules& rules, std::span<const float> scales, std::span<float> effective);

}  // namespace quant
