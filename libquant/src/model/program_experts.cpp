// Mixture of experts: router, chosen experts, and the expert for all tokens.
#include <fmt/format.h>

#include <algorithm>

#include "model/program_model.h"

namespace quant {
namespace {

struct Experts {
  std::uint64_t count = 0;
  std::uint64_t width = 0;
  std::string fused;  ///< module that holds all experts' tensors; empty: one module per expert
};

Experts experts_of(const ProgramModel& model, std::uint64_t layer) {
  const FamilyKeys& keys = model.family.keys;
  Experts experts;
  experts.count = model.config.count(keys.experts);
  experts.width = keys.expert_width.empty() ? model.intermediate : model.config.count(keys.expert_width);
  for (const std::string_view name : model.family.names.fused_experts) {
    const std::string module = model.module(layer, name);
    if (model.tensors.has(module + ".gate_up_proj")) experts.fused = module;
  }
  return experts;
}

std::string router_module(const ProgramModel& model, std::uint64_t layer) {
  const auto& names = model.family.names.routers;
  for (const std::string_view name : names) {
    if (model.tensors.has(model.module(layer, name) + ".weight")) return model.module(layer, name);
  }
  return model.module(layer, names.front());
}

// Every expert's part of one tensor [experts, rows, cols].
std::vector<LinearWeight> fused_weights(const ProgramModel& model, const Experts& experts, const char* leaf,
                                        std::uint64_t rows, std::uint64_t cols) {
  LinearWeight weight;
  weight.tensor = model.tensors.require(experts.fused + "." + leaf, {experts.count, rows, cols});
  weight.rows = rows;
  weight.cols = cols;
  std::vector<LinearWeight> weights;
  for (std::uint64_t expert = 0; expert < experts.count; ++expert) {
    weight.module = fmt::format("{}#{}", weight.tensor, expert);
    weight.slice = static_cast<std::int64_t>(expert);
    weights.push_back(weight);
  }
  return weights;
}

std::vector<LinearWeight> own_weights(const ProgramModel& model, const Experts& experts, std::uint64_t layer,
                                      std::string_view leaf, std::uint64_t rows, std::uint64_t cols) {
  std::vector<LinearWeight> weights;
  for (std::uint64_t expert = 0; expert < experts.count; ++expert) {
    const std::string module = model.module(layer, fmt::format("{}.{}.{}", model.family.names.experts, expert, leaf));
    weights.push_back(model.linear(module, rows, cols, {}, false));
  }
  return weights;
}

ValueId add_route(ProgramBuilder& builder, const ProgramModel& model, const Experts& experts, ValueId logits) {
  RouteOp op;
  op.logits = logits;
  op.experts = experts.count;
  op.top_k = model.config.count(model.family.keys.experts_per_token);
  if (op.top_k > op.experts) {
    model.config.fail(fmt::format("it chooses {} of {} experts", op.top_k, op.experts));
  }
  const std::string_view key = model.family.keys.normalize_experts;
  op.normalize = key.empty() || model.config.flag(key, false);
  return builder.route(op, "routing");
}

// Gate and up, activation and product, up to what `down` reads.
ValueId add_expert_middle(ProgramBuilder& builder, const ProgramModel& model, ValueId gate, ValueId up,
                          const char* activated, const char* name) {
  return builder.multiply(builder.activation(gate, model.activation, activated), up, name);
}

// The expert that sees every token.
struct Shared {
  ValueId gate = -1, up = -1, factor = -1;
};

Shared project_shared(ProgramBuilder& builder, const ProgramModel& model, std::uint64_t layer, ValueId in) {
  const FamilyNames& names = model.family.names;
  const std::uint64_t width = model.config.count(model.family.keys.shared_width);
  const auto linear = [&](const std::string& module, std::uint64_t rows, const char* value) {
    return builder.linear(in, {model.linear(module, rows, model.hidden, {}, false)}, value);
  };
  const std::string shared = model.module(layer, names.shared);
  Shared parts;
  parts.gate = linear(shared + ".gate_proj", width, "shared_gate");
  parts.up = linear(shared + ".up_proj", width, "shared_up");
  if (!names.shared_gate.empty()) parts.factor = linear(model.module(layer, names.shared_gate), 1, "shared_logit");
  return parts;
}

}  // namespace

bool has_experts(const ProgramModel& model, std::uint64_t layer) {
  if (model.family.names.routers.empty()) return false;
  const nlohmann::json* dense = model.config.find("mlp_only_layers");
  if (dense != nullptr) {
    if (!dense->is_array()) model.config.fail("'mlp_only_layers' is no array");
    const bool named = std::any_of(dense->begin(), dense->end(), [&](const nlohmann::json& item) {
      return item.is_number_unsigned() && item.get<std::uint64_t>() == layer;
    });
    if (named) return false;
  }
  return (layer + 1) % model.config.optional_count("decoder_sparse_step").value_or(1) == 0;
}

ValueId add_experts(ProgramBuilder& builder, const ProgramModel& model, std::uint64_t layer, ValueId in) {
  const FamilyNames& names = model.family.names;
  const Experts experts = experts_of(model, layer);
  const std::uint64_t hidden = model.hidden;
  const std::uint64_t width = experts.width;
  const LinearWeight router = model.linear(router_module(model, layer), experts.count, hidden, {}, false);
  const ValueId logits = builder.linear(in, {router}, "router_logits");
  Shared shared;
  if (!names.shared.empty()) shared = project_shared(builder, model, layer, in);

  const ValueId routing = add_route(builder, model, experts, logits);
  ValueId shared_out = -1;
  if (shared.up >= 0) {
    shared_out = add_expert_middle(builder, model, shared.gate, shared.up, "shared_activated", "shared_mid");
  }
  const ValueId rows =
      builder.gather(in, routing, model.config.count(model.family.keys.experts_per_token), "expert_in");
  ValueId gate = -1;
  ValueId up = -1;
  if (!experts.fused.empty()) {
    up = builder.linear(rows, fused_weights(model, experts, "gate_up_proj", 2 * width, hidden), "expert_gate_up",
                        routing);
  } else {
    gate = builder.linear(rows, own_weights(model, experts, layer, names.expert_gate, width, hidden), "expert_gate",
                          routing);
    up = builder.linear(rows, own_weights(model, experts, layer, names.expert_up, width, hidden), "expert_up", routing);
  }
  if (shared_out >= 0) {
    const std::string module = model.module(layer, names.shared) + ".down_proj";
    shared_out =
        builder.linear(shared_out, {model.linear(module, hidden, builder.width(shared_out), {}, false)}, "shared_out");
    if (shared.factor >= 0) {
      const ValueId factor = builder.activation(shared.factor, Activation::sigmoid, "shared_factor");
      shared_out = builder.multiply(shared_out, factor, "shared_weighted");
    }
  }
  if (!experts.fused.empty()) {
    gate = builder.slice(up, "expert_gate", 0, width);
    up = builder.slice(up, "expert_up", width, width);
  }
  const ValueId middle = add_expert_middle(builder, model, gate, up, "expert_activated", "expert_mid");
  auto down = experts.fused.empty() ? own_weights(model, experts, layer, names.expert_down, hidden, width)
                                    : fused_weights(model, experts, "down_proj", hidden, width);
  const ValueId out =
      builder.combine(builder.linear(middle, std::move(down), "expert_out", routing), routing, "experts");
  return shared_out < 0 ? out : builder.add(out, shared_out, "mlp_out");
}

}  // namespace quant
