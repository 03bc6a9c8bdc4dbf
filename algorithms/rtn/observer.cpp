#include "observer.h"

#include <cstdint>
#include <string>
#include <string_view>

#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/observers.h"

namespace quant::rtn {
namespace {

Observer::Kind kind_of(std::string_view name) {
  if (name == "percentile") return Observer::Kind::percentile;
  if (name == "mse_search") return Observer::Kind::search;
  if (name.ends_with("minmax")) return Observer::Kind::minmax;
  return Observer::Kind::grid;
}

double number_kwarg(const QuantArgs& args, std::string_view name) {
  const KwValue value = observer_kwarg(args, name);
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return static_cast<double>(*whole);
  return std::get<double>(value);
}

}  // namespace

Observer make_observer(const QuantArgs& given) {
  QuantArgs args = given;
  for (const std::string& problem : check_observer(args)) throw Error(ErrorCode::usage, problem);
  Observer observer;
  observer.kind = kind_of(observer_of(args).name);
  if (observer.kind == Observer::Kind::percentile) observer.percentile = number_kwarg(args, "percentile");
  if (!observer.searches()) return observer;
  observer.norm = number_kwarg(args, "norm");
  observer.power = make_power_table(observer.norm);
  const double expand = number_kwarg(args, "expand");
  const double grid = number_kwarg(args, "grid");
  const int candidates = static_cast<int>(number_kwarg(args, "maxshrink") * grid);
  for (int i = 0; i < candidates; ++i) {
    const auto factor = static_cast<float>(expand * (1 - i / grid));
    if (factor != 1.0F) observer.factors.push_back(factor);
  }
  return observer;
}

}  // namespace quant::rtn
