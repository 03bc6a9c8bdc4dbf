#include "quant/observers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/names.h"

namespace quant {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::max();
constexpr double kSmallest = std::numeric_limits<double>::min();  // "positive" as a closed range

ObserverKwarg number(std::string_view name, double value, double lowest, double highest, std::string_view help) {
  return {name, KwType::number, value, lowest, highest, {}, help};
}

ObserverKwarg integer(std::string_view name, std::int64_t value, double lowest, double highest, std::string_view help) {
  return {name, KwType::integer, value, lowest, highest, {}, help};
}

ObserverKwarg averaging() {
  return number("averaging_constant", 0.01, kSmallest, 1,
                "weight of the newest range in the running average; without effect on a weight, which is seen once");
}

struct SearchDefaults {
  double maxshrink = 0.20;
  std::int64_t patience = 5;
  std::int64_t grid = 100;
  double norm = 2.4;
  double expand = 1.0;
};

std::vector<ObserverKwarg> search_kwargs(const SearchDefaults& defaults) {
  return {
      number("maxshrink", defaults.maxshrink, kSmallest, 1, "largest part of the range that is tried to be cut off"),
      integer("patience", defaults.patience, 1, 1e6,
              "accepted for llm-compressor's recipes; changes nothing: every candidate is tried"),
      integer("grid", defaults.grid, 1, 1e4, "candidates per whole range: they are 1/grid apart"),
      number("norm", defaults.norm, 0.1, 7, "exponent of the error that is made smallest: sum |q - w|^norm"),
      number("expand", defaults.expand, 0.1, 10, "the first candidate, as a factor of the min-max range"),
      integer("chunk_size", 5, 1, 1e6, "accepted for llm-compressor's recipes; changes nothing")};
}

std::vector<ObserverKwarg> with(std::vector<ObserverKwarg> kwargs, ObserverKwarg one) {
  kwargs.push_back(std::move(one));
  return kwargs;
}

std::vector<ObserverInfo> make_observers() {
  const ObserverKwarg strict{
      "strict", KwType::boolean, false, 0, 0, {}, "accepted for llm-compressor's recipes; changes nothing"};
  const SearchDefaults imatrix{0.95, 5, 20, 3.0, 1.0};
  const SearchDefaults nvfp4{1 - 0.8 / 1.8, 1000, 200, 2.4, 1.8};
  const SearchDefaults squares{0.20, 5, 100, 2.0, 1.0};
  return {
      {"memoryless_minmax", "smallest and largest value (the default)", {}},
      {"static_minmax", "smallest and largest value of all data seen", {}},
      {"minmax", "running average of smallest and largest value", {averaging()}},
      {"percentile",
       "the given part of the magnitudes, so that rare outliers are clipped",
       {number("percentile", 0.9999, 0.5, 1, "part of |w| that must lie within the range")}},
      {"memoryless_mse", "min and max shrunk together to the least error", search_kwargs({})},
      {"mse", "running average of memoryless_mse", with(search_kwargs({}), averaging())},
      {"mse_joint", "another name of memoryless_mse", search_kwargs({})},
      {"mse_search", "min and max shrunk together and apart, and neighbouring zero points, to the least error",
       search_kwargs(squares)},
      {"nvfp4_expanded_mse", "wider memoryless_mse for NVFP4: from 1.8 down to 0.8 of the range", search_kwargs(nvfp4)},
      {"imatrix_mse", "memoryless_mse with each column's error weighted by its importance",
       with(search_kwargs(imatrix), strict)},
  };
}

const ObserverKwarg* find_kwarg(const std::vector<ObserverKwarg>& list, std::string_view name) {
  for (const auto& kwarg : list) {
    if (kwarg.name == name) return &kwarg;
  }
  return nullptr;
}

std::string short_number(double value) {
  if (value == kSmallest) return "above 0";
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string range_text(const ObserverKwarg& kwarg) {
  const std::string low = short_number(kwarg.lowest);
  if (kwarg.highest == kUnbounded) return "must be " + low;
  return "must be " + (kwarg.lowest == kSmallest ? low + " and at most " : "from " + low + " to ") +
         short_number(kwarg.highest);
}

std::string type_text(KwType type) {
  switch (type) {
    case KwType::boolean:
      return "must be true or false";
    case KwType::integer:
      return "must be an integer";
    case KwType::number:
      return "must be a number";
    case KwType::text:
      return "must be a text";
  }
  return {};
}

std::string choices_text(const ObserverKwarg& kwarg) {
  std::string list;
  for (const auto choice : kwarg.choices) list += (list.empty() ? "must be one of " : ", ") + std::string(choice);
  return list;
}

/// What is wrong with a value, or an empty text.
std::string value_problem(const ObserverKwarg& kwarg, KwValue& value) {
  if (kwarg.type == KwType::number && std::holds_alternative<std::int64_t>(value)) {
    value = static_cast<double>(std::get<std::int64_t>(value));
  }
  if (value.index() != kwarg.default_value.index()) {
    return kwarg.type == KwType::text ? choices_text(kwarg) : type_text(kwarg.type);
  }
  if (const auto* text = std::get_if<std::string>(&value)) {
    for (const auto choice : kwarg.choices) {
      if (choice == *text) return {};
    }
    return choices_text(kwarg);
  }
  if (std::holds_alternative<bool>(value)) return {};
  const auto* whole = std::get_if<std::int64_t>(&value);
  const double numeric = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value);
  const bool inside = numeric >= kwarg.lowest && numeric <= kwarg.highest;  // false for NaN
  return inside ? std::string() : range_text(kwarg);
}

std::string unknown_kwarg(const ObserverInfo& observer, const std::string& name) {
  std::vector<std::string> known;
  for (const auto& kwarg : observer.kwargs) known.emplace_back(kwarg.name);
  for (const auto& kwarg : common_observer_kwargs()) known.emplace_back(kwarg.name);
  const std::string near = nearest_name(name, known);
  std::string list;
  for (const auto& one : known) list += (list.empty() ? "" : ", ") + one;
  return "observer_kwargs." + name + ": observer " + std::string(observer.name) + " has no such argument" +
         (near.empty() ? "; it has " + list : ", did you mean '" + near + "'?");
}

std::string unknown_observer(const std::string& name) {
  std::vector<std::string> known;
  for (const auto& info : observers()) known.emplace_back(info.name);
  const std::string near = nearest_name(name, known);
  std::string list;
  for (const auto& one : known) list += (list.empty() ? "" : ", ") + one;
  return "unknown observer '" + name + "'" + (near.empty() ? "; known are " + list : ", did you mean '" + near + "'?");
}

double needed_absmax(const QuantArgs& args) {
  const auto absmax = constant_absmax(args);
  if (!absmax) {
    throw Error(ErrorCode::recipe, "observer_kwargs.absmax: static activations need it, a positive number",
                "give the largest magnitude, or use dynamic activations");
  }
  return *absmax;
}

float positive_scale(double scale, const QuantArgs& args) {
  const bool fits = scale <= static_cast<double>(std::numeric_limits<float>::max());
  const float value = fits ? static_cast<float>(scale) : 0.0F;
  if (value > 0) return value;
  throw Error(ErrorCode::numerical,
              "observer_kwargs.absmax: " + std::to_string(needed_absmax(args)) + " gives no scale that F32 can hold",
              "choose another observer_kwargs.absmax");
}

}  // namespace

const std::vector<ObserverInfo>& observers() {
  static const std::vector<ObserverInfo> list = make_observers();
  return list;
}

const ObserverInfo* find_observer(std::string_view name) {
  for (const auto& info : observers()) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

const std::vector<ObserverKwarg>& common_observer_kwargs() {
  static const std::vector<ObserverKwarg> list = {
      {"symmetric_range",
       KwType::text,
       std::string("standard"),
       0,
       0,
       {"standard", "restricted", "full"},
       "how a symmetric integer scale follows from the largest magnitude"},
      {"float8_format", KwType::text, std::string("e4m3"), 0, 0, {"e4m3", "e5m2"}, "element type of 8-bit floats"},
      {"absmax",
       KwType::number,
       0.0,
       kSmallest,
       kUnbounded,
       {},
       "largest magnitude of a static activation, known beforehand (0: not given)"},
  };
  return list;
}

const ObserverInfo& observer_of(const QuantArgs& args) {
  if (!args.observer) return observers().front();
  const ObserverInfo* info = find_observer(*args.observer);
  if (info == nullptr) throw Error(ErrorCode::recipe, unknown_observer(*args.observer));
  return *info;
}

KwValue observer_kwarg(const QuantArgs& args, std::string_view name) {
  const ObserverInfo& observer = observer_of(args);
  const ObserverKwarg* kwarg = find_kwarg(observer.kwargs, name);
  if (kwarg == nullptr) kwarg = find_kwarg(common_observer_kwargs(), name);
  if (kwarg == nullptr) {
    throw Error(ErrorCode::internal,
                "observer " + std::string(observer.name) + " has no argument '" + std::string(name) + "'");
  }
  const auto given = args.observer_kwargs.find(std::string(name));
  if (given == args.observer_kwargs.end()) return kwarg->default_value;
  KwValue value = given->second;
  const std::string problem = value_problem(*kwarg, value);
  if (!problem.empty()) throw Error(ErrorCode::recipe, "observer_kwargs." + std::string(name) + ": " + problem);
  return value;
}

std::optional<double> constant_absmax(const QuantArgs& args) {
  const auto found = args.observer_kwargs.find("absmax");
  if (found == args.observer_kwargs.end()) return std::nullopt;
  double value = 0;
  if (const auto* number = std::get_if<double>(&found->second)) value = *number;
  if (const auto* number = std::get_if<std::int64_t>(&found->second)) value = static_cast<double>(*number);
  if (!std::isfinite(value) || value <= 0) return std::nullopt;
  return value;
}

float static_activation_scale(const QuantArgs& args) {
  const double full = args.type == NumberType::floating ? float_max(args) : (std::ldexp(1.0, args.num_bits) - 1) / 2;
  return positive_scale(needed_absmax(args) / full, args);
}

float static_activation_global_scale(const QuantArgs& args) {
  constexpr double kLargestScale = 448;
  constexpr double kLargestElement = 6;
  return positive_scale(kLargestScale * kLargestElement / needed_absmax(args), args);
}

namespace {

void require_finite(double value, const char* what) {
  if (std::isfinite(value)) return;
  throw Error(ErrorCode::numerical, std::string("static activation scale: the ") + what + " is not a finite number",
              "look for NaN and infinity in the calibrated model's activations");
}

float smallest_normal(DType type) { return type == DType::F16 ? 0x1p-14F : std::numeric_limits<float>::min(); }

}  // namespace

StaticScale static_activation_scale(const QuantArgs& args, float minimum, float maximum, DType stored) {
  require_finite(minimum, "smallest value seen");
  require_finite(maximum, "largest value seen");
  minimum = std::min(minimum, 0.0F);
  maximum = std::max(maximum, 0.0F);
  const bool floating = args.type == NumberType::floating;
  const float range = floating ? 2 * float_max(args) : static_cast<float>(code_max(args) - code_min(args));
  StaticScale result;
  result.scale = args.symmetric ? std::max(-minimum, maximum) / (range / 2) : (maximum - minimum) / range;
  require_finite(result.scale, "scale");
  if (result.scale == 0) result.scale = std::numeric_limits<float>::epsilon();
  result.scale = std::max(round_to_dtype(stored, result.scale), smallest_normal(stored));
  require_finite(result.scale, "scale as stored");
  if (!args.symmetric) {
    const auto lowest = static_cast<float>(code_min(args));
    const float zero = std::clamp(lowest - minimum / result.scale, lowest, static_cast<float>(code_max(args)));
    result.zero_point = static_cast<std::int8_t>(std::nearbyint(zero));
  }
  return result;
}

float static_activation_global_scale(float minimum, float maximum) {
  require_finite(minimum, "smallest value seen");
  require_finite(maximum, "largest value seen");
  constexpr float kLargestScaleTimesElement = 448.0F * 6.0F;
  const float absmax = std::max({-std::min(minimum, 0.0F), std::max(maximum, 0.0F), std::numeric_limits<float>::min()});
  const float scale = 1.0F / absmax * kLargestScaleTimesElement;  // in PyTorch's order for number / tensor
  return std::isfinite(scale) ? scale : 1.0F;
}

bool needs_calibrated_scale(const QuantArgs& activations) {
  return activations.dynamic != Dynamic::yes && !constant_absmax(activations);
}

std::vector<std::string> check_observer(QuantArgs& args) {
  if (args.observer && find_observer(*args.observer) == nullptr)
    return {"observer: " + unknown_observer(*args.observer)};
  const ObserverInfo& observer = observer_of(args);
  std::vector<std::string> problems;
  for (auto& [name, value] : args.observer_kwargs) {
    const ObserverKwarg* kwarg = find_kwarg(observer.kwargs, name);
    if (kwarg == nullptr) kwarg = find_kwarg(common_observer_kwargs(), name);
    const std::string problem = kwarg == nullptr ? std::string() : value_problem(*kwarg, value);
    if (kwarg == nullptr) problems.push_back(unknown_kwarg(observer, name));
    if (!problem.empty()) problems.push_back("observer_kwargs." + name + ": " + problem);
  }
  return problems;
}

}  // namespace quant
