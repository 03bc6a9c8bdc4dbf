#include "observer.h"

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant::rtn {
namespace {

struct NamedObserver {
  std::string_view name;
  Observer::Kind kind;
  double maxshrink, expand, norm, grid;
};

// The grid defaults are those of llm-compressor's observers of these names.
constexpr std::array kObservers{
    NamedObserver{"memoryless_minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"static_minmax", Observer::Kind::minmax, 0, 1, 2, 1},
    NamedObserver{"percentile", Observer::Kind::percentile, 0, 1, 2, 1},
    NamedObserver{"memoryless_mse", Observer::Kind::grid, 0.20, 1, 2.4, 100},
    NamedObserver{"mse", Observer::Kind::grid, 0.20, 1, 2.4, 100},
    NamedObserver{"nvfp4_expanded_mse", Observer::Kind::grid, 1 - 0.8 / 1.8, 1.8, 2.4, 200},
    NamedObserver{"imatrix_mse", Observer::Kind::grid, 0.95, 1, 3.0, 20},
    NamedObserver{"mse_search", Observer::Kind::search, 0.20, 1, 2.0, 100},
};

const NamedObserver& find_observer(const std::string& name) {
  std::string names;
  for (const auto& entry : kObservers) {
    if (entry.name == name) return entry;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error(ErrorCode::usage, "observer '" + name + "' is unknown", "use one of: " + names);
}

// A number of observer_kwargs within [low, high], or `value` if it is absent.
double number_kwarg(const QuantArgs& args, const std::string& name, double value, double low, double high) {
  const auto found = args.observer_kwargs.find(name);
  if (found == args.observer_kwargs.end()) return value;
  double number = std::numeric_limits<double>::quiet_NaN();
  if (const auto* real = std::get_if<double>(&found->second)) number = *real;
  if (const auto* whole = std::get_if<std::int64_t>(&found->second)) number = static_cast<double>(*whole);
  if (number >= low && number <= high) return number;
  throw Error(ErrorCode::usage, "observer_kwargs." + name + ": must be a number from " + std::to_string(low) + " to " +
                                    std::to_string(high));
}

}  // namespace

Observer make_observer(const QuantArgs& args) {
  const NamedObserver& named = find_observer(args.observer.value_or("memoryless_minmax"));
  Observer observer;
  observer.kind = named.kind;
  observer.percentile = number_kwarg(args, "percentile", 0.9999, 0.5, 1.0);
  observer.norm = number_kwarg(args, "norm", named.norm, 0.1, 7.0);
  observer.power = make_power_table(observer.norm);
  const double maxshrink = number_kwarg(args, "maxshrink", named.maxshrink, 0.0, 1.0);
  const double expand = number_kwarg(args, "expand", named.expand, 0.1, 10.0);
  const double grid = number_kwarg(args, "grid", named.grid, 1, 10000);
  if (!observer.searches()) return observer;
  for (int i = 0; i < static_cast<int>(maxshrink * grid); ++i) {
    const auto factor = static_cast<float>(expand * (1 - i / grid));
    if (factor != 1.0F) observer.factors.push_back(factor);
  }
  return observer;
}

}  // namespace quant::rtn
