#include "shared/checks.h"

#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/weight_rows.h"
#include "rtn/tensor_params.h"

namespace quant::shared {

void complete_args(const Algorithm& algorithm, QuantArgs& args) {
  const bool strategy_given = args.strategy != Strategy::tensor || (!args.group_size && !args.block_structure);
  std::string problems;
  for (const std::string& problem : complete_and_check(args, strategy_given)) {
    problems += (problems.empty() ? "" : "; ") + problem;
  }
  if (problems.empty()) problems = algorithm.unsupported(args).value_or("");
  if (!problems.empty()) throw Error(ErrorCode::usage, problems);
}

void require_finite(const TensorView& weight) {
  if (find_non_finite(weight)) rtn::reject_non_finite(weight, 0);
}

void check_importance(std::span<const float> importance, const TensorView& weight, bool each) {
  const std::uint64_t count = weight.rows() * weight.cols();
  rtn::check_importance(importance, each && importance.size() == count ? count : weight.cols());
}

float storable_scale(float scale, DType type) {
  const float rounded = round_to_dtype(type, scale);
  const float smallest = type == DType::F16 ? 0x1p-24F : std::numeric_limits<float>::min();
  if (rounded < smallest) return smallest;
  if (std::isfinite(rounded)) return rounded;
  return type == DType::F16 ? 65504.0F : type == DType::BF16 ? 0x1.FEp127F : std::numeric_limits<float>::max();
}

ParameterSpec importance_parameter(const std::string& of_what) {
  return {
      "importance", ParameterSpec::Type::text, std::string("none"),
      "weight of " + of_what + ": none, or hessian: the mean square of the column's input (needs calibration data)"};
}

bool wants_hessian(const Parameters& parameters) {
  const auto given = parameters.find("importance");
  if (given == parameters.end()) return false;
  const auto& name = std::get<std::string>(given->second);
  if (name == "none" || name == "hessian") return name == "hessian";
  throw Error(ErrorCode::usage, "importance must be none or hessian, not '" + name + "'");
}

}  // namespace quant::shared
