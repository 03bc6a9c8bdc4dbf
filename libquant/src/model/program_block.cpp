// The operations of one block. Whatever linears read comes before the first of them, so that linears with independent
// inputs form one stage.
#include <cmath>
#include <optional>

#include "model/program_model.h"
#include "model/rope.h"

namespace quant {
namespace {

struct Qkv {
  ValueId q = -1, k = -1, v = -1;
  ValueId fused = -1;
};

// One block under construction.
class Block {
 public:
  Block(const ProgramModel& model, std::uint64_t layer)
      : model_(model), family_(model.family), names_(model.family.names), layer_(layer), builder_(model.block(layer)) {}

  Program sequential();
  Program parallel();

 private:
  std::string module(std::string_view name) const { return model_.module(layer_, name); }
  ValueId norm(ValueId in, std::string_view name, const char* value, bool present = true);
  ValueId linear(ValueId in, std::string_view name, std::uint64_t rows, std::string_view bias_key, bool bias,
                 const char* value);

  Qkv project_qkv(ValueId in);
  Qkv split_qkv(Qkv qkv);
  ValueId own_head_norms(ValueId in, std::string_view name, const char* value);
  ValueId head_norm(ValueId in, std::string_view name, const char* value);
  ValueId rotate(ValueId in, std::uint64_t heads, const LayerType& type, const char* value);
  ValueId attend(Qkv qkv);
  float attention_scale() const;
  ValueId project_out(ValueId in);

  ValueId project_up(ValueId in, ValueId& gate);
  ValueId activate(ValueId up, ValueId gate);
  ValueId project_down(ValueId in);

  const ProgramModel& model_;
  const Family& family_;
  const FamilyNames& names_;
  std::uint64_t layer_;
  ProgramBuilder builder_;
};

ValueId Block::norm(ValueId in, std::string_view name, const char* value, bool present) {
  if (name.empty() || !present) return in;
  return builder_.norm(model_.norm(in, module(name), model_.hidden), value);
}

ValueId Block::linear(ValueId in, std::string_view name, std::uint64_t rows, std::string_view bias_key, bool bias,
                      const char* value) {
  return builder_.linear(in, {model_.linear(module(name), rows, builder_.width(in), bias_key, bias)}, value);
}

Qkv Block::project_qkv(ValueId in) {
  const std::uint64_t q_width = model_.heads * model_.head_dim;
  const std::uint64_t kv_width = model_.kv_heads * model_.head_dim;
  const auto project = [&](std::string_view name, std::uint64_t rows, const char* value) {
    return linear(in, name, rows, family_.keys.qkv_bias, family_.qkv_bias, value);
  };
  Qkv qkv;
  if (family_.qkv != QkvOrder::separate) {
    qkv.fused = project(names_.qkv, q_width + 2 * kv_width, "qkv");
    return qkv;
  }
  qkv.q = project(names_.q, q_width, "q");
  qkv.k = project(names_.k, kv_width, "k");
  qkv.v = project(names_.v, kv_width, "v");
  return qkv;
}

Qkv Block::split_qkv(Qkv qkv) {
  const std::uint64_t dim = model_.head_dim;
  const std::uint64_t q_width = model_.heads * dim;
  const std::uint64_t kv_width = model_.kv_heads * dim;
  if (family_.qkv == QkvOrder::one_after_another) {
    qkv.q = builder_.slice(qkv.fused, "q", 0, q_width);
    qkv.k = builder_.slice(qkv.fused, "k", q_width, kv_width);
    qkv.v = builder_.slice(qkv.fused, "v", q_width + kv_width, kv_width);
  } else if (family_.qkv == QkvOrder::per_head) {
    qkv.q = builder_.slice(qkv.fused, "q", 0, dim, 3 * dim, model_.heads);
    qkv.k = builder_.slice(qkv.fused, "k", dim, dim, 3 * dim, model_.heads);
    qkv.v = builder_.slice(qkv.fused, "v", 2 * dim, dim, 3 * dim, model_.heads);
  }
  return qkv;
}

// Every head has a weight tensor of its own, and no bias.
ValueId Block::own_head_norms(ValueId in, std::string_view name, const char* value) {
  NormOp op;
  op.in = in;
  op.module = module(name);
  op.kind = family_.norm;
  op.epsilon = model_.epsilon;
  op.group = model_.head_dim;
  for (std::uint64_t head = 0; head * model_.head_dim < builder_.width(in); ++head) {
    op.group_weights.push_back(
        model_.tensors.require(op.module + ".norms." + std::to_string(head) + ".weight", {model_.head_dim}));
  }
  return builder_.norm(op, value);
}

ValueId Block::head_norm(ValueId in, std::string_view name, const char* value) {
  if (family_.qk_norm == QkNorm::none || !model_.config.flag(family_.keys.qk_norm, true)) return in;
  if (family_.qk_norm == QkNorm::per_head_own) return own_head_norms(in, name, value);
  const bool whole = family_.qk_norm == QkNorm::whole_row;
  NormOp op = model_.norm(in, module(name), whole ? builder_.width(in) : model_.head_dim);
  op.group = whole ? 0 : model_.head_dim;
  return builder_.norm(op, value);
}

ValueId Block::rotate(ValueId in, std::uint64_t heads, const LayerType& type, const char* value) {
  if (family_.positions != Positions::rotary) return in;
  RotaryOp op;
  op.in = in;
  op.heads = heads;
  op.head_dim = model_.head_dim;
  set_rope(op, family_, model_.config, type.name);
  return builder_.rotary(std::move(op), value);
}

float Block::attention_scale() const {
  const FamilyKeys& keys = family_.keys;
  double scale = 1;
  if (model_.config.flag(keys.scale_attention, true)) {
    const auto scalar = model_.config.optional_positive(keys.attention_scale);
    scale = 1 / std::sqrt(scalar.value_or(static_cast<double>(model_.head_dim)));
  }
  if (model_.config.flag(keys.scale_by_layer, false)) scale /= static_cast<double>(layer_ + 1);
  return static_cast<float>(scale);
}

ValueId Block::attend(Qkv qkv) {
  qkv = split_qkv(qkv);
  const LayerType type = layer_type(model_, layer_);
  AttentionOp op;
  op.q = rotate(head_norm(qkv.q, names_.q_norm, "q_normalized"), model_.heads, type, "q_rotated");
  op.k = rotate(head_norm(qkv.k, names_.k_norm, "k_normalized"), model_.kv_heads, type, "k_rotated");
  op.v = qkv.v;
  op.module = module(names_.attention);
  op.heads = model_.heads;
  op.kv_heads = model_.kv_heads;
  op.head_dim = model_.head_dim;
  op.value_dim = model_.head_dim;
  op.scale = attention_scale();
  op.softcap = static_cast<float>(model_.config.optional_positive(family_.keys.attention_softcap).value_or(0));
  op.window = type.window;
  op.causal = family_.causal;
  return builder_.attention(std::move(op), "attention");
}

ValueId Block::project_out(ValueId in) {
  return linear(in, names_.o, model_.hidden, family_.keys.o_bias, family_.o_bias, "attention_out");
}

ValueId Block::project_up(ValueId in, ValueId& gate) {
  const auto project = [&](std::string_view name, std::uint64_t rows, const char* value) {
    return linear(in, name, rows, family_.keys.mlp_bias, family_.mlp_bias, value);
  };
  if (!names_.gate_up.empty()) {
    gate = -1;
    return project(names_.gate_up, 2 * model_.intermediate, "gate_up");
  }
  gate = family_.mlp == MlpKind::gated ? project(names_.gate, model_.intermediate, "gate") : -1;
  return project(names_.up, model_.intermediate, "up");
}

ValueId Block::activate(ValueId up, ValueId gate) {
  if (family_.mlp == MlpKind::plain) return builder_.activation(up, model_.activation, "activated");
  if (gate < 0) {
    gate = builder_.slice(up, "gate", 0, model_.intermediate);
    up = builder_.slice(up, "up", model_.intermediate, model_.intermediate);
  }
  return builder_.multiply(builder_.activation(gate, model_.activation, "activated"), up, "mlp_mid");
}

ValueId Block::project_down(ValueId in) {
  return linear(in, names_.down, model_.hidden, family_.keys.mlp_bias, family_.mlp_bias, "mlp_out");
}

Program Block::sequential() {
  const bool first = model_.norm_first;
  const ValueId input = builder_.input("residual", model_.hidden);
  ValueId x = norm(input, names_.attention_norm, "attention_in", first);
  x = project_out(attend(project_qkv(x)));
  x = norm(x, names_.attention_out_norm, "attention_out_normalized");
  x = builder_.add(input, x, "attention_sum");
  x = norm(x, names_.attention_sum_norm, "attention_sum_normalized");
  const ValueId middle = norm(x, names_.attention_norm, "attention_sum_normalized", !first);
  x = norm(middle, names_.mlp_norm, "mlp_in", first);
  if (has_experts(model_, layer_)) {
    x = add_experts(builder_, model_, layer_, x);
  } else {
    ValueId gate = -1;
    const ValueId up = project_up(x, gate);
    x = project_down(activate(up, gate));
  }
  x = norm(x, names_.mlp_out_norm, "mlp_out_normalized");
  x = builder_.add(middle, x, "mlp_sum");
  x = norm(x, names_.mlp_sum_norm, "mlp_sum_normalized");
  return builder_.finish(norm(x, names_.mlp_norm, "mlp_sum_normalized", !first));
}

Program Block::parallel() {
  const ValueId input = builder_.input("residual", model_.hidden);
  const ValueId attention_in = norm(input, names_.attention_norm, "attention_in");
  const ValueId mlp_in = family_.parallel_shares_norm ? attention_in : norm(input, names_.mlp_norm, "mlp_in");
  const Qkv qkv = project_qkv(attention_in);
  ValueId gate = -1;
  const ValueId up = project_up(mlp_in, gate);
  const ValueId attended = attend(qkv);
  const ValueId middle = activate(up, gate);
  const ValueId attention_out = project_out(attended);
  const ValueId mlp_out = project_down(middle);
  return builder_.finish(builder_.add(input, builder_.add(attention_out, mlp_out, "branches"), "sum"));
}

}  // namespace

Program build_block(const ProgramModel& model, std::uint64_t layer) {
  Block block(model, layer);
  return model.parallel ? block.parallel() : block.sequential();
}

}  // namespace quant
