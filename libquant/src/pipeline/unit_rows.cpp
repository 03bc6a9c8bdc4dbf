#include "pipeline/unit_rows.h"

#include <algorithm>

namespace quant {

UnitRows rows_of(const Program& program, const InputUnit& unit, const Values& values, std::uint64_t tokens,
                 bool all_experts) {
  const std::vector<float>& all = values.at(unit.value);
  const std::uint64_t width = program.values[static_cast<std::size_t>(unit.value)].width;
  if (unit.expert < 0) return {all, all.size() / width};
  const auto& op = std::get<LinearOp>(program.ops[unit.op]);
  const auto limits = ProgramRunner::expert_rows(program, op, values, tokens, all_experts);
  const auto expert = static_cast<std::size_t>(unit.expert);
  const std::uint64_t count = limits[expert + 1] - limits[expert];
  return {std::span(all).subspan(limits[expert] * width, count * width), count};
}

void want(const Program& program, const InputUnit& unit, std::vector<ValueId>& wanted) {
  wanted.push_back(unit.value);
  if (unit.needs.residual) wanted.push_back(unit.residual);
  if (unit.expert >= 0) wanted.push_back(std::get<LinearOp>(program.ops[unit.op]).routing);
}

std::size_t first_reader(const Program& program, const SmoothingSite& site) {
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    const auto inputs = inputs_of(program.ops[i]);
    if (std::find(inputs.begin(), inputs.end(), site.value) != inputs.end()) return i;
  }
  return program.ops.size();
}

}  // namespace quant
