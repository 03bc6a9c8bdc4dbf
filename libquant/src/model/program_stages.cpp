// What operations read and write, and the division of a program into stages.
#include <algorithm>
#include <limits>

#include "quant/model_program.h"

namespace quant {
namespace {

constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();

struct Inputs {
  std::vector<ValueId> operator()(const NormOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const LinearOp& op) const {
    return op.routing < 0 ? std::vector<ValueId>{op.in} : std::vector<ValueId>{op.in, op.routing};
  }
  std::vector<ValueId> operator()(const SliceOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const RotaryOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const AttentionOp& op) const { return {op.q, op.k, op.v}; }
  std::vector<ValueId> operator()(const ActivationOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const MultiplyOp& op) const { return {op.a, op.b}; }
  std::vector<ValueId> operator()(const AddOp& op) const { return {op.a, op.b}; }
  std::vector<ValueId> operator()(const ScaleOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const SoftcapOp& op) const { return {op.in}; }
  std::vector<ValueId> operator()(const RouteOp& op) const { return {op.logits}; }
  std::vector<ValueId> operator()(const GatherOp& op) const { return {op.in, op.routing}; }
  std::vector<ValueId> operator()(const CombineOp& op) const { return {op.in, op.routing}; }
  std::vector<ValueId> operator()(const EmbeddingOp&) const { return {}; }
};

// When every value is made and last read, as positions between operations: made by operation i means there from
// position i + 1 on; read by operation i means needed up to position i. The output is read after the last operation.
class Lifetimes {
 public:
  explicit Lifetimes(const Program& program)
      : program_(program), made_(program.values.size(), kNever), read_(program.values.size(), 0) {
    if (program.input >= 0) made_[index(program.input)] = 0;
    for (std::size_t i = 0; i < program.ops.size(); ++i) {
      for (const ValueId id : inputs_of(program.ops[i])) read_[index(id)] = i + 1;
      made_[index(output_of(program.ops[i]))] = i + 1;
    }
    if (program.output >= 0) read_[index(program.output)] = program.ops.size() + 1;
  }

  std::size_t made(ValueId id) const { return made_[index(id)]; }

  std::vector<ValueId> live_at(std::size_t position) const {
    std::vector<ValueId> live;
    for (std::size_t id = 0; id < made_.size(); ++id) {
      if (made_[id] <= position && read_[id] > position) live.push_back(static_cast<ValueId>(id));
    }
    return live;
  }

  std::uint64_t width_at(std::size_t position) const {
    std::uint64_t width = 0;
    for (const ValueId id : live_at(position)) {
      width += program_.values[index(id)].width * program_.values[index(id)].rows_per_token;
    }
    return width;
  }

 private:
  static std::size_t index(ValueId id) { return static_cast<std::size_t>(id); }

  const Program& program_;
  std::vector<std::size_t> made_;
  std::vector<std::size_t> read_;
};

bool is_heavy(const Op& op) { return std::holds_alternative<LinearOp>(op) || std::holds_alternative<AttentionOp>(op); }

// Linears join a stage as long as all that they read is there before the stage's first linear.
std::vector<Stage> group_linears(const Program& program, const Lifetimes& lifetimes) {
  std::vector<Stage> stages;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    if (!std::holds_alternative<LinearOp>(program.ops[i])) continue;
    const std::vector<ValueId> inputs = inputs_of(program.ops[i]);
    const bool joins = !stages.empty() && std::all_of(inputs.begin(), inputs.end(), [&](ValueId id) {
      return lifetimes.made(id) <= stages.back().linears;
    });
    if (!joins) stages.push_back({0, i, 0, {}, {}});
    stages.back().members.push_back(i);
  }
  return stages;
}

std::size_t best_cut(const Program& program, const Lifetimes& lifetimes, std::size_t linears) {
  std::size_t earliest = linears;
  while (earliest > 0 && !is_heavy(program.ops[earliest - 1])) --earliest;
  std::size_t best = earliest;
  std::uint64_t width = std::numeric_limits<std::uint64_t>::max();
  for (std::size_t position = earliest; position <= linears; ++position) {
    const std::uint64_t here = lifetimes.width_at(position);
    if (here > width) continue;
    width = here;
    best = position;
  }
  return best;
}

}  // namespace

std::vector<ValueId> inputs_of(const Op& op) { return std::visit(Inputs{}, op); }

ValueId output_of(const Op& op) {
  return std::visit([](const auto& one) { return one.out; }, op);
}

std::vector<Stage> stages_of(const Program& program) {
  const Lifetimes lifetimes(program);
  std::vector<Stage> stages = group_linears(program, lifetimes);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    if (i > 0) {
      stages[i].begin = best_cut(program, lifetimes, stages[i].linears);
      stages[i - 1].end = stages[i].begin;
    }
    stages[i].live = lifetimes.live_at(stages[i].begin);
  }
  if (!stages.empty()) stages.back().end = program.ops.size();
  return stages;
}

}  // namespace quant
