// The observers a recipe may name, with their keyword arguments: one table for the reader, the algorithms and the
// manual.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/scheme.h"

namespace quant {

enum class KwType { boolean, integer, number, text };

/// A keyword argument of an observer (a key of `observer_kwargs`).
struct ObserverKwarg {
  std::string_view name;
  KwType type = KwType::number;
  KwValue default_value;  ///< of the alternative that `type` names
  double lowest = 0;      ///< integers and numbers: the allowed range, both ends included
  double highest = 0;
  std::vector<std::string_view> choices;  ///< texts: the allowed values
  std::string_view help;
};

/// How the range that a scale must cover is chosen from the values. Names and defaults are those of llm-compressor
/// where it has the observer. All work on a weight seen once, so "minmax" and "static_minmax" equal "memoryless_minmax"
/// there.
struct ObserverInfo {
  std::string_view name;
  std::string_view summary;
  std::vector<ObserverKwarg> kwargs;  ///< its own; common_observer_kwargs() come on top
};

/// All observers, in the order in which they are listed to users. The first is the default.
const std::vector<ObserverInfo>& observers();
/// Null if there is no observer of that name. Names are case-sensitive.
const ObserverInfo* find_observer(std::string_view name);
/// Keyword arguments that go with every observer: symmetric_range, float8_format and absmax.
const std::vector<ObserverKwarg>& common_observer_kwargs();

/// The observer that `args` name, the default one if they name none. Throws Error{recipe} for an unknown name.
const ObserverInfo& observer_of(const QuantArgs& args);
/// The value of keyword argument `name`: what `args` say, else the default of observer_of(args).
/// Throws Error{internal} if neither the observer nor the common list has it.
KwValue observer_kwarg(const QuantArgs& args, std::string_view name);

/// observer_kwargs.absmax, if it is given and a positive number.
std::optional<double> constant_absmax(const QuantArgs& args);
/// The scale of static activations (one per tensor) whose largest magnitude is constant_absmax(args):
/// absmax / float_max for floats, absmax / ((2^b - 1) / 2) for integers of b bits. The zero point that goes with it is
/// 0. Throws Error{recipe} without such a constant, and Error{numerical} for a scale that is no positive F32.
float static_activation_scale(const QuantArgs& args);
/// The same for NVFP4, where scales of groups follow at run time: 448 * 6 / absmax, the largest scale times the largest
/// element over the largest magnitude. It divides, as QuantizedTensor::global_scale does. Errors as above.
float static_activation_global_scale(const QuantArgs& args);

/// A static scale (one per tensor) and the zero point that goes with it.
struct StaticScale {
  float scale = 0;
  std::int8_t zero_point = 0;
};
/// The static scale of activations that were seen to lie in [minimum, maximum]: what compressed-tensors'
/// calculate_qparams computes in float32 (the range is widened to hold 0; a range of nothing but 0 gets 2^-23), with
/// the scale rounded to `stored`, the type in which a checkpoint keeps it, before the zero point follows from it. A
/// scale too small for `stored` becomes its smallest normal number. Throws Error{numerical} for a range or a scale that
/// is not finite.
StaticScale static_activation_scale(const QuantArgs& args, float minimum, float maximum, DType stored = DType::F32);
/// The same for NVFP4: 448 * 6 / the largest magnitude; 1 if nothing but 0 was seen (or the quotient is no float).
float static_activation_global_scale(float minimum, float maximum);
/// True for activations whose scale must be stored (not dynamic, or local) and that give no absmax: it has to come from
/// calibration.
bool needs_calibrated_scale(const QuantArgs& activations);

/// Turns integers given for numbers into numbers, and returns what is wrong with the observer and its keyword
/// arguments, as sentences that begin with the field ("observer_kwargs.grid: ..."). Part of complete_and_check.
std::vector<std::string> check_observer(QuantArgs& args);

}  // namespace quant
