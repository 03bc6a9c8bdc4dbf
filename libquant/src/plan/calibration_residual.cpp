// What the outputs of linears are added to: where errors of the residual stream can be compensated.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plan/calibration_work.h"

namespace quant {
namespace {

std::size_t maker_of(const Program& program, ValueId value) {
  const auto made =
      std::find_if(program.ops.begin(), program.ops.end(), [&](const Op& op) { return output_of(op) == value; });
  return static_cast<std::size_t>(made - program.ops.begin());
}

// The one operation that reads a value, once; null if there is none, or more.
const Op* only_reader(const Program& program, ValueId value) {
  const Op* reader = nullptr;
  for (const Op& op : program.ops) {
    const std::vector<ValueId> inputs = inputs_of(op);
    const auto uses = std::count(inputs.begin(), inputs.end(), value);
    if (uses == 0) continue;
    if (uses > 1 || reader != nullptr) return nullptr;
    reader = &op;
  }
  return reader;
}

// The part of a sum that is the residual stream and is there before operation `end`: not another branch's output.
ValueId stream_in(const Program& program, std::size_t end, ValueId value) {
  if (value == program.input) return value;
  const std::size_t maker = maker_of(program, value);
  if (maker == program.ops.size() || std::holds_alternative<LinearOp>(program.ops[maker])) return -1;
  if (maker < end) return value;
  const auto* add = std::get_if<AddOp>(&program.ops[maker]);
  if (add == nullptr) return -1;
  const ValueId first = stream_in(program, end, add->a);
  return first >= 0 ? first : stream_in(program, end, add->b);
}

ValueId stream_beside(const Program& program, std::size_t end, ValueId output) {
  const Op* reader = only_reader(program, output);
  while (reader != nullptr) {
    const auto* add = std::get_if<AddOp>(reader);
    if (add == nullptr) return -1;
    const ValueId found = stream_in(program, end, add->a == output ? add->b : add->a);
    if (found >= 0) return found;
    // Another branch's output, and the stream further on.
    output = add->out;
    reader = only_reader(program, output);
  }
  return -1;
}

// Linears whose outputs end in the residual stream, by what stands between.
struct Branches {
  std::size_t direct = 0;
  std::size_t normalized = 0;
  std::size_t experts = 0;
};

void count_unit(const Program& program, const InputUnit& unit, Branches& branches) {
  if (unit.residual >= 0) {
    ++branches.direct;
    return;
  }
  for (const WorkLinear& entry : unit.linears) {
    const Op* reader = only_reader(program, output_of(program.ops[entry.place.op]));
    if (reader == nullptr) continue;
    if (std::holds_alternative<CombineOp>(*reader)) {
      ++branches.experts;
    } else if (std::holds_alternative<NormOp>(*reader) &&
               stream_beside(program, program.ops.size(), output_of(*reader)) >= 0) {
      ++branches.normalized;
    }
  }
}

Branches branches_of(const CalibrationWork& work, const Plan& plan, std::size_t modifier) {
  Branches branches;
  for (const BlockWork& block : work.blocks) {
    for (const Sweep& sweep : block.sweeps) {
      for (const InputUnit& unit : sweep.units) {
        const bool of_it = std::any_of(unit.linears.begin(), unit.linears.end(), [&](const WorkLinear& entry) {
          const PlannedLinear& linear = plan.linears[entry.linear];
          const bool prunes = std::any_of(linear.pruning.begin(), linear.pruning.end(),
                                          [&](const PlannedPruning& pruning) { return pruning.modifier == modifier; });
          return prunes || linear.modifier == modifier;
        });
        if (of_it) count_unit(*block.program, unit, branches);
      }
    }
  }
  return branches;
}

std::string reasons(const Branches& branches) {
  std::string text;
  if (branches.normalized > 0) {
    text = fmt::format("the outputs of {} linears are normalized before they are added", branches.normalized);
  }
  if (branches.experts > 0) {
    text += fmt::format("{}{} linears are experts", text.empty() ? "" : ", ", branches.experts);
  }
  return text.empty() ? "no output of a quantized linear is added to it" : text;
}

}  // namespace

namespace plan_detail {

ValueId residual_of(const Program& program, const Stage& stage, const InputUnit& unit) {
  if (unit.expert >= 0 || unit.linears.size() != 1) return -1;
  return stream_beside(program, stage.linears, output_of(program.ops[unit.op]));
}

void warn_of_residual(Plan& plan, const CalibrationWork& work) {
  for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
    const ModifierAlgorithm& algorithm = work.algorithms[m];
    if (algorithm.own == nullptr || algorithm.transform != nullptr || !algorithm.own->needs().residual) continue;
    const Branches branches = branches_of(work, plan, m);
    if (branches.direct > 0 && branches.normalized == 0 && branches.experts == 0) continue;
    const RecipeModifier& modifier = plan.recipe.modifiers[m];
    plan.warnings.push_back(fmt::format("{}: {} compensates errors of the residual stream in {} linears{}: {}",
                                        modifier.where.to_string(), modifier.type,
                                        branches.direct == 0 ? "no" : std::to_string(branches.direct),
                                        branches.direct == 0 ? "" : " only", reasons(branches)));
  }
}

}  // namespace plan_detail
}  // namespace quant
