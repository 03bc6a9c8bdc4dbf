// Laws that every program and every division into stages must keep, whatever the family.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "quant/model_program.h"
#include "support/catch.h"

namespace quant::test {

inline std::uint64_t width_of(const Program& program, ValueId id) {
  return program.values.at(static_cast<std::size_t>(id)).width;
}

/// Every value is written once, before it is read, and the widths fit each other.
inline void check_values(const Program& program) {
  INFO("program " << program.name);
  std::set<ValueId> made;
  if (program.input >= 0) made.insert(program.input);
  for (const Op& op : program.ops) {
    for (const ValueId id : inputs_of(op)) REQUIRE(made.contains(id));
    REQUIRE(made.insert(output_of(op)).second);
    if (const auto* linear = std::get_if<LinearOp>(&op)) {
      for (const LinearWeight& weight : linear->weights) {
        CHECK(weight.cols == width_of(program, linear->in));
        CHECK(weight.rows == width_of(program, linear->out));
      }
    } else if (const auto* slice = std::get_if<SliceOp>(&op)) {
      CHECK(slice->first + (slice->repeat - 1) * slice->stride + slice->width <= width_of(program, slice->in));
      CHECK(slice->width * slice->repeat == width_of(program, slice->out));
    } else if (const auto* rotary = std::get_if<RotaryOp>(&op)) {
      CHECK(rotary->heads * rotary->head_dim == width_of(program, rotary->in));
      CHECK(rotary->inverse_frequency.size() * 2 == rotary->rotary_dim);
      CHECK(rotary->rotary_dim <= rotary->head_dim);
    } else if (const auto* attention = std::get_if<AttentionOp>(&op)) {
      CHECK(attention->heads * attention->head_dim == width_of(program, attention->q));
      CHECK(attention->kv_heads * attention->head_dim == width_of(program, attention->k));
      CHECK(attention->kv_heads * attention->value_dim == width_of(program, attention->v));
    }
  }
  REQUIRE(made.contains(program.output));
}

/// Every linear is in exactly one stage; the stages cover the program; each can be run from its live values alone; no
/// linear of a stage depends on another one of it; all that its linears read is there before the first of them.
inline void check_stages(const Program& program) {
  INFO("program " << program.name);
  const std::vector<Stage> stages = stages_of(program);
  std::multiset<std::size_t> members;
  std::size_t at = 0;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    INFO("stage " << s);
    const Stage& stage = stages[s];
    REQUIRE(stage.begin == at);
    REQUIRE(stage.begin <= stage.linears);
    REQUIRE(stage.linears < stage.end);
    REQUIRE(!stage.members.empty());
    CHECK(stage.members.front() == stage.linears);
    at = stage.end;
    // Only the live values exist when the stage begins.
    std::set<ValueId> made(stage.live.begin(), stage.live.end());
    CHECK(made.size() == stage.live.size());
    std::set<ValueId> before_linears;
    for (std::size_t i = stage.begin; i < stage.end; ++i) {
      if (i == stage.linears) before_linears = made;
      for (const ValueId id : inputs_of(program.ops[i])) REQUIRE(made.contains(id));
      made.insert(output_of(program.ops[i]));
    }
    for (const std::size_t member : stage.members) {
      REQUIRE(member >= stage.linears);
      REQUIRE(member < stage.end);
      REQUIRE(std::holds_alternative<LinearOp>(program.ops[member]));
      for (const ValueId id : inputs_of(program.ops[member])) CHECK(before_linears.contains(id));
      members.insert(member);
    }
    // What the next stage starts from is there when this one has run.
    if (s + 1 < stages.size()) {
      for (const ValueId id : stages[s + 1].live) CHECK(made.contains(id));
    } else {
      CHECK(made.contains(program.output));
    }
  }
  if (!stages.empty()) CHECK(at == program.ops.size());
  std::multiset<std::size_t> linears;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    if (std::holds_alternative<LinearOp>(program.ops[i])) linears.insert(i);
  }
  CHECK(members == linears);
}

inline void check_model(const ModelProgram& model) {
  std::vector<const Program*> programs = {&model.embeddings, &model.head};
  for (const Program& block : model.blocks) programs.push_back(&block);
  for (const Program* program : programs) {
    check_values(*program);
    check_stages(*program);
  }
  CHECK(model.embeddings.input == -1);
  CHECK(width_of(model.embeddings, model.embeddings.output) == model.hidden);
  for (const Program& block : model.blocks) {
    CHECK(width_of(block, block.input) == model.hidden);
    CHECK(width_of(block, block.output) == model.hidden);
  }
  CHECK(width_of(model.head, model.head.input) == model.hidden);
}

/// The modules of each stage's linears, experts as one: {{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, ...}.
inline std::vector<std::vector<std::string>> stage_modules(const Program& program) {
  std::vector<std::vector<std::string>> names;
  for (const Stage& stage : stages_of(program)) {
    names.emplace_back();
    for (const std::size_t member : stage.members) {
      const std::string& module = std::get<LinearOp>(program.ops[member]).weights.front().module;
      names.back().push_back(module.substr(module.rfind('.') + 1));
    }
  }
  return names;
}

/// The names of the values that a stage starts from.
inline std::vector<std::string> live_names(const Program& program, const Stage& stage) {
  std::vector<std::string> names;
  for (const ValueId id : stage.live) names.push_back(program.values[static_cast<std::size_t>(id)].name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace quant::test
