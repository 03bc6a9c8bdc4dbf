#include "model/program_builder.h"

namespace quant {

ValueId ProgramBuilder::value(std::string name, std::uint64_t width, std::uint64_t rows_per_token) {
  program_.values.push_back({std::move(name), width, rows_per_token});
  return static_cast<ValueId>(program_.values.size() - 1);
}

ValueId ProgramBuilder::input(std::string name, std::uint64_t width) {
  program_.input = value(std::move(name), width);
  return program_.input;
}

ValueId ProgramBuilder::norm(NormOp op, std::string name) {
  op.out = like(op.in, std::move(name));
  program_.ops.emplace_back(op);
  return op.out;
}

ValueId ProgramBuilder::linear(ValueId in, std::vector<LinearWeight> weights, std::string name, ValueId routing) {
  const ValueId out = value(std::move(name), weights.front().rows, at(in).rows_per_token);
  program_.ops.emplace_back(LinearOp{in, out, std::move(weights), routing});
  return out;
}

ValueId ProgramBuilder::slice(ValueId in, std::string name, std::uint64_t first, std::uint64_t width,
                              std::uint64_t stride, std::uint64_t repeat) {
  const ValueId out = value(std::move(name), width * repeat, at(in).rows_per_token);
  program_.ops.emplace_back(SliceOp{in, out, first, width, stride, repeat});
  return out;
}

ValueId ProgramBuilder::rotary(RotaryOp op, std::string name) {
  op.out = like(op.in, std::move(name));
  const ValueId out = op.out;
  program_.ops.emplace_back(std::move(op));
  return out;
}

ValueId ProgramBuilder::attention(AttentionOp op, std::string name) {
  op.out = value(std::move(name), op.heads * op.value_dim);
  const ValueId out = op.out;
  program_.ops.emplace_back(std::move(op));
  return out;
}

ValueId ProgramBuilder::activation(ValueId in, Activation function, std::string name) {
  const ValueId out = like(in, std::move(name));
  program_.ops.emplace_back(ActivationOp{in, out, function});
  return out;
}

ValueId ProgramBuilder::multiply(ValueId a, ValueId b, std::string name) {
  const ValueId out = like(a, std::move(name));
  program_.ops.emplace_back(MultiplyOp{a, b, out});
  return out;
}

ValueId ProgramBuilder::add(ValueId a, ValueId b, std::string name) {
  const ValueId out = like(a, std::move(name));
  program_.ops.emplace_back(AddOp{a, b, out});
  return out;
}

ValueId ProgramBuilder::softcap(ValueId in, float cap, std::string name) {
  const ValueId out = like(in, std::move(name));
  program_.ops.emplace_back(SoftcapOp{in, out, cap});
  return out;
}

ValueId ProgramBuilder::route(RouteOp op, std::string name) {
  op.out = value(std::move(name), 2 * op.top_k);
  program_.ops.emplace_back(op);
  return op.out;
}

ValueId ProgramBuilder::gather(ValueId in, ValueId routing, std::uint64_t top_k, std::string name) {
  const ValueId out = value(std::move(name), at(in).width, top_k);
  program_.ops.emplace_back(GatherOp{in, routing, out});
  return out;
}

ValueId ProgramBuilder::combine(ValueId in, ValueId routing, std::string name) {
  const ValueId out = value(std::move(name), at(in).width);
  program_.ops.emplace_back(CombineOp{in, routing, out});
  return out;
}

ValueId ProgramBuilder::embedding(EmbeddingOp op, std::uint64_t width, std::string name) {
  op.out = value(std::move(name), width);
  const ValueId out = op.out;
  program_.ops.emplace_back(std::move(op));
  return out;
}

Program ProgramBuilder::finish(ValueId output) {
  program_.output = output;
  return std::move(program_);
}

}  // namespace quant
