#include "plan/sensitivities.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace quant {
namespace {

const QuantArgs& args_of(const Plan& plan, const PlannedLinear& linear) {
  return *plan.groups[linear.scheme].scheme.weights;
}

// Sentences about many tensors, the first few in full.
class Sentences {
 public:
  void add(std::string sentence) {
    if (++count_ <= kNamed) sentences_.push_back(std::move(sentence));
  }
  void flush(std::vector<std::string>& problems) {
    if (count_ > kNamed) sentences_.back() += fmt::format("; and {} more such linears", count_ - kNamed);
    problems.insert(problems.end(), sentences_.begin(), sentences_.end());
  }

 private:
  static constexpr std::size_t kNamed = 4;
  std::size_t count_ = 0;
  std::vector<std::string> sentences_;
};

// Why the tensor of a linear cannot be used, or an empty text.
std::string reason_against(const Plan& plan, const PlannedLinear& linear, const Quantizer& quantizer,
                           const TensorInfo* found) {
  const Checkpoint& file = *plan.options.sensitivities;
  if (found == nullptr) {
    return fmt::format("{} holds no {}: every linear whose errors are weighted needs its own", file.location().string(),
                       linear.weight->name);
  }
  const std::string where = fmt::format("{} in {}", found->name, file.files()[found->file].path.string());
  const bool floats = is_floating(found->dtype) && dtype_bits(found->dtype) >= 8;
  if (!floats) return fmt::format("{} is of type {}, not floats", where, dtype_name(found->dtype));
  const Shape whole{linear.shape.rows, linear.shape.cols}, columns{linear.shape.cols};
  if (found->shape != whole && found->shape != columns) {
    return fmt::format("{} is {}; the weight needs {}, or {} for its columns", where, to_string(found->shape),
                       to_string(whole), to_string(columns));
  }
  if (found->shape == whole && !quantizer.weighs_each() && quantizer.weighs(args_of(plan, linear))) {
    return fmt::format("{} is {}, but {} weighs columns, not single weights: it takes {}", where,
                       to_string(found->shape), plan.recipe.modifiers[linear.modifier].type, to_string(columns));
  }
  return {};
}

void check_modifiers(Plan& plan, const std::vector<ModifierAlgorithm>& algorithms) {
  for (std::size_t m = 0; m < algorithms.size(); ++m) {
    const RecipeModifier& modifier = plan.recipe.modifiers[m];
    if (algorithms[m].transform != nullptr) {
      plan.problems.push_back(fmt::format(
          "{}: {} rescales weights, and sensitivities of the model's own weights are not those of the rescaled ones",
          modifier.where.to_string(), modifier.type));
    } else if (algorithms[m].quantizer != nullptr && algorithms[m].own->needs().gram) {
      plan.problems.push_back(
          fmt::format("{}: {} takes the importance of weights from calibration (importance: hessian), or from a file "
                      "of sensitivities, not from both: set importance: none",
                      modifier.where.to_string(), modifier.type));
    }
  }
}

}  // namespace

void read_sensitivities(const Plan& plan, const PlannedLinear& linear, std::uint64_t first, std::uint64_t count,
                        std::vector<float>& out) {
  out.clear();
  if (linear.sensitivity == nullptr) return;
  const Checkpoint& file = *plan.options.sensitivities;
  const TensorView whole = file.view(*linear.sensitivity);
  const bool columns = whole.shape.size() == 1;
  const TensorView part = columns ? whole : whole.slice_rows(first, count);
  out.resize(columns ? linear.shape.cols : count * linear.shape.cols);
  file.will_read(part);
  read_f32(part, 0, out);
  if (!columns) file.done_reading(part);
}

bool prepares_with_sensitivities(const Plan& plan, const PlannedLinear& linear) {
  const QuantArgs& args = args_of(plan, linear);
  return linear.sensitivity != nullptr && (args.sensitive_percent > 0 || needs_whole_tensor(args));
}

namespace plan_detail {

void find_sensitivities(Plan& plan, const std::vector<ModifierAlgorithm>& algorithms) {
  if (plan.options.sensitivities == nullptr) return;
  check_modifiers(plan, algorithms);
  Sentences wrong, missing;
  bool any = false;
  for (PlannedLinear& linear : plan.linears) {
    const ModifierAlgorithm& algorithm = algorithms[linear.modifier];
    if (algorithm.quantizer == nullptr || !algorithm.quantizer->weighs(args_of(plan, linear))) continue;
    any = true;
    const auto& own = dynamic_cast<const Quantizer&>(*algorithm.own);
    const TensorInfo* found = plan.options.sensitivities->find(linear.weight->name);
    const std::string reason = reason_against(plan, linear, own, found);
    if (!reason.empty()) {
      (found == nullptr ? missing : wrong).add("sensitivities: " + reason);
    } else {
      linear.sensitivity = found;
    }
  }
  wrong.flush(plan.problems);
  missing.flush(plan.problems);
  if (any) return;
  plan.problems.push_back(plan.recipe.name +
                          " has no use for sensitivities: they weigh k-means, scales that are searched, and the choice "
                          "of sensitive_percent");
}

}  // namespace plan_detail
}  // namespace quant
