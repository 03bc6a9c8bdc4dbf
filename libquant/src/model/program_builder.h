// Builds one Program operation by operation; each call adds an operation and returns its result.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/model_program.h"

namespace quant {

class ProgramBuilder {
 public:
  explicit ProgramBuilder(std::string name) { program_.name = std::move(name); }

  ValueId value(std::string name, std::uint64_t width, std::uint64_t rows_per_token = 1);
  ValueId input(std::string name, std::uint64_t width);
  std::uint64_t width(ValueId id) const { return at(id).width; }

  ValueId norm(NormOp op, std::string name);
  ValueId linear(ValueId in, std::vector<LinearWeight> weights, std::string name, ValueId routing = -1);
  /// `repeat` pieces of `width` columns, the i-th from column first + i * stride.
  ValueId slice(ValueId in, std::string name, std::uint64_t first, std::uint64_t width, std::uint64_t stride = 0,
                std::uint64_t repeat = 1);
  ValueId rotary(RotaryOp op, std::string name);
  ValueId attention(AttentionOp op, std::string name);
  ValueId activation(ValueId in, Activation function, std::string name);
  ValueId multiply(ValueId a, ValueId b, std::string name);
  ValueId add(ValueId a, ValueId b, std::string name);
  ValueId softcap(ValueId in, float cap, std::string name);
  ValueId route(RouteOp op, std::string name);
  ValueId gather(ValueId in, ValueId routing, std::uint64_t top_k, std::string name);
  ValueId combine(ValueId in, ValueId routing, std::string name);
  ValueId embedding(EmbeddingOp op, std::uint64_t width, std::string name);

  Program finish(ValueId output);

 private:
  const ProgramValue& at(ValueId id) const { return program_.values[static_cast<std::size_t>(id)]; }
  ValueId like(ValueId id, std::string name) { return value(std::move(name), at(id).width, at(id).rows_per_token); }

  Program program_;
};

}  // namespace quant
