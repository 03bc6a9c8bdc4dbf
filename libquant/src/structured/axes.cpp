#include "structured/axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "quant/error.h"

namespace quant::structured {
namespace {

[[noreturn]] void fail(const Program& program, const std::string& what) {
  throw Error(ErrorCode::unsupported,
              fmt::format("'{}' {}, so this version does not know what belongs to its channels", program.name, what),
              "leave this axis out of the recipe");
}

std::uint64_t width_of(const Program& program, ValueId value) {
  return program.values[static_cast<std::size_t>(value)].width;
}

// The one linear that reads a value.
std::size_t linear_reading(const Program& program, ValueId value) {
  std::optional<std::size_t> found;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    const auto inputs = inputs_of(program.ops[i]);
    if (std::find(inputs.begin(), inputs.end(), value) == inputs.end()) continue;
    if (found || !std::holds_alternative<LinearOp>(program.ops[i])) {
      fail(program, fmt::format("has a value '{}' that other operations than one linear read",
                                program.values[static_cast<std::size_t>(value)].name));
    }
    found = i;
  }
  if (!found) fail(program, "has an output of attention that nothing reads");
  return *found;
}

class AxisFinder {
 public:
  AxisFinder(BlockAxes& axes, const ProgramModel& model, ValueId residual)
      : axes_(axes), program_(*axes.program), model_(model), taken_(axes.channels.size(), false) {
    if (residual < 0) return;
    for (std::uint64_t c = 0; c < width_of(program_, residual); ++c) take(residual, c);
    for (ValueId v = 0; v < static_cast<ValueId>(program_.values.size()); ++v) {
      const bool same = width_of(program_, v) == width_of(program_, residual) &&
                        axes_.channels.channel(v, 0) == axes_.channels.channel(residual, 0);
      if (same) axes_.hidden.push_back(v);
    }
  }

  void find() {
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      if (const auto* attention = std::get_if<AttentionOp>(&program_.ops[i])) add_attention(i, *attention);
      if (const auto* route = std::get_if<RouteOp>(&program_.ops[i])) add_experts(i, *route);
    }
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      const auto* linear = std::get_if<LinearOp>(&program_.ops[i]);
      if (linear != nullptr && !taken_[axes_.channels.channel(linear->in, 0)]) add_ffn(i, *linear);
    }
  }

 private:
  void take(ValueId value, std::uint64_t column) {
    const std::uint32_t channel = axes_.channels.channel(value, column);
    if (taken_[channel]) fail(program_, "uses one channel in two ways");
    taken_[channel] = true;
  }
  void take_all(ValueId value) {
    for (std::uint64_t c = 0; c < width_of(program_, value); ++c) take(value, c);
  }

  void add_attention(std::size_t index, const AttentionOp& op) {
    if (axes_.attention) fail(program_, "has two attentions");
    for (const ValueId value : {op.q, op.k, op.v, op.out}) take_all(value);
    axes_.attention = AttentionAxis{index,    op.q,        op.k,        op.v,         op.out,
                                    op.heads, op.kv_heads, op.head_dim, op.value_dim, linear_reading(program_, op.out)};
  }

  void add_experts(std::size_t index, const RouteOp& op) {
    if (axes_.experts) fail(program_, "has two routers");
    take_all(op.logits);
    ExpertAxis axis{index, op.logits, op.out, op.experts, op.top_k, 0, 0};
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      const auto* combine = std::get_if<CombineOp>(&program_.ops[i]);
      if (combine != nullptr && combine->routing == op.out) axis.combine = i;
    }
    const auto& combine = std::get<CombineOp>(program_.ops[axis.combine]);
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      if (output_of(program_.ops[i]) == combine.in) axis.reader = i;
    }
    axes_.experts = axis;
  }

  // A linear that reads neither the residual stream nor attention reads the inner channels of an MLP.
  void add_ffn(std::size_t index, const LinearOp& op) {
    FfnAxis axis{op.in, index, width_of(program_, op.in), op.weights.size(), {}};
    linear_reading(program_, op.in);  // no other may
    take_all(op.in);
    const FamilyKeys& keys = model_.family.keys;
    const std::string_view shared = model_.family.names.shared;
    const std::string& module = op.weights.front().module;
    if (op.routing >= 0) {
      axis.key = keys.expert_width.empty() ? keys.intermediate : keys.expert_width;
    } else if (!shared.empty() && module.find("." + std::string(shared) + ".") != std::string::npos) {
      axis.key = keys.shared_width;
    } else {
      axis.key = keys.intermediate;
    }
    axes_.ffn.push_back(axis);
  }

  BlockAxes& axes_;
  const Program& program_;
  const ProgramModel& model_;
  std::vector<bool> taken_;
};

std::vector<BlockAxes> axes_of_blocks(const ModelProgram& program, const ProgramModel& model) {
  std::vector<BlockAxes> blocks;
  for (const Program& block : program.blocks) blocks.push_back(find_axes(block, model, block.input));
  return blocks;
}

// Without axes of its own.
BlockAxes outer_axes(const Program& program, ValueId residual) {
  BlockAxes axes(program);
  for (ValueId v = 0; v < static_cast<ValueId>(program.values.size()); ++v) {
    const bool same = width_of(program, v) == width_of(program, residual) &&
                      axes.channels.channel(v, 0) == axes.channels.channel(residual, 0);
    if (same) axes.hidden.push_back(v);
  }
  return axes;
}

}  // namespace

Units all_units(std::uint64_t count) {
  Units units(count);
  std::iota(units.begin(), units.end(), 0U);
  return units;
}

BlockAxes find_axes(const Program& program, const ProgramModel& model, ValueId residual) {
  BlockAxes axes(program);
  AxisFinder(axes, model, residual).find();
  return axes;
}

ModelAxes::ModelAxes(const ModelProgram& program, const ProgramModel& model)
    : embeddings(outer_axes(program.embeddings, program.embeddings.output)),
      blocks(axes_of_blocks(program, model)),
      head(outer_axes(program.head, program.head.input)) {}

KeptUnits everything(const ModelAxes& axes, const ProgramModel& model) {
  KeptUnits kept;
  kept.layers = all_units(axes.blocks.size());
  kept.hidden = all_units(model.hidden);
  for (const BlockAxes& block : axes.blocks) {
    LayerUnits units;
    if (block.attention) {
      units.heads = all_units(block.attention->heads);
      units.groups = all_units(block.attention->kv_heads);
    }
    for (const FfnAxis& ffn : block.ffn) units.ffn.emplace_back(ffn.experts, all_units(ffn.width));
    if (block.experts) units.experts = all_units(block.experts->count);
    kept.of_layer.push_back(std::move(units));
  }
  return kept;
}

KeptColumns::KeptColumns(const BlockAxes& axes, const Units& hidden, const LayerUnits& units)
    : axes_(axes), removed_(axes.channels.size(), false) {
  // Whole pieces of `size` columns of a value, all but those of `kept`.
  const auto remove = [&](std::vector<bool>& removed, ValueId value, std::uint64_t pieces, std::uint64_t size,
                          const Units& kept) {
    auto next = kept.begin();
    for (std::uint64_t piece = 0; piece < pieces; ++piece) {
      if (next != kept.end() && *next == piece) {
        ++next;
        continue;
      }
      for (std::uint64_t c = 0; c < size; ++c) removed[axes.channels.channel(value, piece * size + c)] = true;
    }
  };
  if (!axes.hidden.empty()) {
    const ValueId value = axes.hidden.front();
    remove(removed_, value, axes.program->values[static_cast<std::size_t>(value)].width, 1, hidden);
  }
  if (const auto& attention = axes.attention) {
    remove(removed_, attention->q, attention->heads, attention->head_dim, units.heads);
    remove(removed_, attention->out, attention->heads, attention->value_dim, units.heads);
    remove(removed_, attention->k, attention->kv_heads, attention->head_dim, units.groups);
    remove(removed_, attention->v, attention->kv_heads, attention->value_dim, units.groups);
  }
  if (axes.experts) remove(removed_, axes.experts->logits, axes.experts->count, 1, units.experts);
  for (std::size_t f = 0; f < axes.ffn.size(); ++f) {
    const FfnAxis& ffn = axes.ffn[f];
    if (ffn.experts == 1) remove(removed_, ffn.value, ffn.width, 1, units.ffn[f].front());
  }
  for (std::size_t f = 0; f < axes.ffn.size(); ++f) {
    const FfnAxis& ffn = axes.ffn[f];
    for (std::size_t e = 0; ffn.experts > 1 && e < ffn.experts; ++e) {
      if (units.ffn[f][e].size() == ffn.width) continue;
      remove(per_expert_.try_emplace(e, removed_).first->second, ffn.value, ffn.width, 1, units.ffn[f][e]);
    }
  }
}

Units KeptColumns::of(ValueId value, std::size_t expert) const {
  const auto own = per_expert_.find(expert);
  const std::vector<bool>& removed = own == per_expert_.end() ? removed_ : own->second;
  Units kept;
  const std::uint64_t width = width_of(*axes_.program, value);
  for (std::uint64_t c = 0; c < width; ++c) {
    if (!removed[axes_.channels.channel(value, c)]) kept.push_back(static_cast<std::uint32_t>(c));
  }
  return kept;
}

}  // namespace quant::structured
