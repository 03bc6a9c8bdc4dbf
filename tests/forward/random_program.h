// Random small programs that use every operation and option.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "oracle.h"
#include "quant/registry.h"
#include "support/memory_checkpoint.h"

namespace quant::test {

/// A program and its weights, built step by step.
class ProgramMaker {
 public:
  explicit ProgramMaker(unsigned seed) : random_(seed) { program_.name = "random"; }

  bool coin() { return pick(2) == 1; }
  std::uint64_t pick(std::uint64_t n) { return random_() % n; }
  float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_); }
  std::vector<float> normal(std::uint64_t n, float deviation) {
    std::normal_distribution<float> distribution(0.0F, deviation);
    std::vector<float> out(n);
    for (float& x : out) x = distribution(random_);
    return out;
  }

  ValueId value(std::uint64_t width, std::uint64_t rows = 1) {
    program_.values.push_back({"v" + std::to_string(program_.values.size()), width, rows});
    return static_cast<ValueId>(program_.values.size()) - 1;
  }
  std::uint64_t width(ValueId id) const { return program_.values[static_cast<std::size_t>(id)].width; }
  std::uint64_t rows(ValueId id) const { return program_.values[static_cast<std::size_t>(id)].rows_per_token; }
  template <class T>
  ValueId push(T op) {
    const ValueId out = op.out;
    program_.ops.push_back(std::move(op));
    return out;
  }
  std::string tensor(Shape shape, float deviation, float mean = 0.0F) {
    const std::string name = "t" + std::to_string(tensors_.size());
    std::vector<float> values = normal(element_count(shape), deviation);
    for (float& x : values) x += mean;
    checkpoint_.set_values(name, DType::F32, std::move(shape), values);
    tensors_[name] = std::move(values);
    return name;
  }

  ValueId linear(ValueId in, std::uint64_t out_width, bool bias, bool transposed = false) {
    LinearOp op{in, value(out_width, rows(in)), {}, -1};
    const std::uint64_t w = width(in);
    const Shape shape = transposed ? Shape{w, out_width} : Shape{out_width, w};
    op.weights.push_back({"m" + std::to_string(tensors_.size()), tensor(shape, deviation(w)),
                          bias ? tensor({out_width}, 0.3F) : "", out_width, w, transposed, -1});
    return push(op);
  }
  /// Experts in one 3-D tensor, or in a tensor each.
  ValueId experts(ValueId in, ValueId routing, std::uint64_t count, std::uint64_t out_width, bool fused,
                  bool transposed, bool bias) {
    LinearOp op{in, value(out_width, rows(in)), {}, routing};
    const std::uint64_t w = width(in);
    const std::uint64_t a = transposed ? w : out_width, b = transposed ? out_width : w;
    const std::string all = fused ? tensor({count, a, b}, deviation(w)) : "";
    const std::string all_bias = fused && bias ? tensor({count, out_width}, 0.3F) : "";
    for (std::uint64_t e = 0; e < count; ++e) {
      const std::string module = "experts" + std::to_string(tensors_.size()) + "#" + std::to_string(e);
      if (fused) {
        op.weights.push_back({module, all, all_bias, out_width, w, transposed, static_cast<std::int64_t>(e)});
      } else {
        op.weights.push_back({module, tensor({a, b}, deviation(w)), bias ? tensor({out_width}, 0.3F) : "", out_width, w,
                              transposed, -1});
      }
    }
    return push(op);
  }
  ValueId norm(ValueId in, std::uint64_t group = 0) {
    NormOp op;
    op.in = in;
    op.out = value(width(in), rows(in));
    op.module = "norm";
    op.kind = coin() ? NormKind::rms : NormKind::layer;
    op.epsilon = 1e-5F;
    op.group = group;
    const std::uint64_t n = group == 0 || coin() ? width(in) : group;
    op.plus_one = coin();
    if (pick(4) != 0) op.weight = tensor({n}, 0.2F, op.plus_one ? 0.0F : 1.0F);
    if (!op.weight.empty() && coin()) op.bias = tensor({n}, 0.2F);
    return push(op);
  }
  ValueId rotary(ValueId in, std::uint64_t heads, const RotaryOp& settings) {
    RotaryOp op = settings;
    op.in = in;
    op.out = value(width(in));
    op.heads = heads;
    return push(op);
  }
  RotaryOp rotary_settings(std::uint64_t head_dim) {
    RotaryOp op;
    op.head_dim = head_dim;
    op.rotary_dim = coin() ? head_dim : head_dim / 2;
    op.interleaved = coin();
    op.magnitude = coin() ? 1.0F : 1.2F;
    for (std::uint64_t i = 0; i < op.rotary_dim / 2; ++i) {
      op.inverse_frequency.push_back(
          std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(op.rotary_dim)));
    }
    if (pick(3) == 0) {
      op.dynamic_base = 10000;
      op.dynamic_factor = 2;
      op.dynamic_length = 20;
    }
    return op;
  }
  AttentionOp attention_settings() {
    AttentionOp op;
    op.module = "attention";
    op.kv_heads = 1 + pick(2);
    op.heads = op.kv_heads * (1 + pick(3));
    op.head_dim = 8 * (1 + pick(2));
    op.value_dim = coin() ? op.head_dim : 12;
    op.scale = 1.0F / std::sqrt(static_cast<float>(op.head_dim));
    op.softcap = coin() ? 0.0F : 2.0F;
    op.window = coin() ? 0 : 1 + pick(30);
    op.causal = pick(4) != 0;
    return op;
  }

  Program& program() { return program_; }
  const Tensors& tensors() const { return tensors_; }
  MemoryCheckpoint& checkpoint() { return checkpoint_; }

 private:
  static float deviation(std::uint64_t width) { return 1.0F / std::sqrt(static_cast<float>(width)); }

  std::mt19937 random_;
  Program program_;
  Tensors tensors_;
  MemoryCheckpoint checkpoint_;
};

inline ValueId add_attention(ProgramMaker& make, ValueId in) {
  AttentionOp op = make.attention_settings();
  const std::uint64_t q = op.heads * op.head_dim, k = op.kv_heads * op.head_dim, v = op.kv_heads * op.value_dim;
  const bool bias = make.coin();
  if (make.coin()) {  // fused, and taken apart: per key head its queries, its key and its value
    const std::uint64_t group = op.heads / op.kv_heads * op.head_dim, piece = group + op.head_dim + op.value_dim;
    const ValueId all = make.linear(in, piece * op.kv_heads, bias, make.coin());
    op.q = make.push(SliceOp{all, make.value(q), 0, group, piece, op.kv_heads});
    op.k = make.push(SliceOp{all, make.value(k), group, op.head_dim, piece, op.kv_heads});
    op.v = make.push(SliceOp{all, make.value(v), group + op.head_dim, op.value_dim, piece, op.kv_heads});
  } else {
    op.q = make.linear(in, q, bias);
    op.k = make.linear(in, k, bias);
    op.v = make.linear(in, v, bias);
  }
  if (make.coin()) {
    op.q = make.norm(op.q, op.head_dim);
    op.k = make.norm(op.k, op.head_dim);
  }
  if (make.coin()) {
    const RotaryOp settings = make.rotary_settings(op.head_dim);
    op.q = make.rotary(op.q, op.heads, settings);
    op.k = make.rotary(op.k, op.kv_heads, settings);
  }
  op.out = make.value(op.heads * op.value_dim);
  return make.linear(make.push(op), make.width(in), make.coin());
}

inline ValueId add_feed_forward(ProgramMaker& make, ValueId in) {
  const auto function = static_cast<Activation>(make.pick(8));
  const bool fused = make.coin(), transposed = make.coin(), bias = make.coin(), moe = make.coin();
  const std::uint64_t experts = 3 + make.pick(4), inner = 20 + make.pick(20);
  ValueId routing = -1, x = in;
  if (moe) {
    const std::uint64_t top_k = 1 + make.pick(3);
    const ValueId logits = make.linear(in, experts, false);
    routing = make.push(
        RouteOp{logits, make.value(2 * top_k), experts, top_k, make.coin(), make.coin(), make.coin() ? 1.0F : 2.5F});
    x = make.push(GatherOp{in, routing, make.value(make.width(in), top_k)});
  }
  const auto linear = [&](ValueId from, std::uint64_t width) {
    return moe ? make.experts(from, routing, experts, width, fused, transposed, bias) : make.linear(from, width, bias);
  };
  const ValueId gate = linear(x, inner);
  ValueId hidden = make.push(ActivationOp{gate, make.value(inner, make.rows(gate)), function});
  if (make.coin()) hidden = make.push(MultiplyOp{hidden, linear(x, inner), make.value(inner, make.rows(gate))});
  ValueId out = linear(hidden, make.width(in));
  if (moe) out = make.push(CombineOp{out, routing, make.value(make.width(in))});
  if (make.coin()) {  // a gate of one factor per token
    const ValueId factor = make.linear(in, 1, false);
    const ValueId bounded = make.push(ActivationOp{factor, make.value(1), Activation::sigmoid});
    out = make.push(MultiplyOp{out, bounded, make.value(make.width(in))});
  }
  return out;
}

/// Embeddings, a block of attention and feed-forward, and what follows a block.
inline void make_random_program(ProgramMaker& make) {
  const std::uint64_t hidden = 24 + 8 * make.pick(3);
  const float factor = make.coin() ? 1.0F : 1.5F;
  ValueId x = make.push(
      EmbeddingOp{make.value(hidden), "tokens", make.tensor({50, hidden}, 1.0F), EmbeddingOp::Index::token, 0, factor});
  if (make.coin()) {
    const ValueId p = make.push(EmbeddingOp{make.value(hidden), "positions", make.tensor({300, hidden}, 0.5F),
                                            EmbeddingOp::Index::position, 2, 1.0F});
    x = make.push(AddOp{x, p, make.value(hidden)});
  }
  if (make.coin()) {
    const ValueId p = make.push(
        EmbeddingOp{make.value(hidden), "types", make.tensor({2, hidden}, 0.5F), EmbeddingOp::Index::zero, 0, 1.0F});
    x = make.push(AddOp{x, p, make.value(hidden)});
  }
  const ValueId attended = add_attention(make, make.norm(x));
  x = make.push(AddOp{x, make.coin() ? make.norm(attended) : attended, make.value(hidden)});
  const ValueId fed = add_feed_forward(make, make.norm(x));
  x = make.push(AddOp{fed, x, make.value(hidden)});
  if (make.coin()) x = make.push(ScaleOp{x, make.value(hidden), 0.7F});
  x = make.linear(make.norm(x), 31, false);
  if (make.coin()) x = make.push(SoftcapOp{x, make.value(31), 3.0F});
  make.program().output = x;
}

/// A batch of random token ids.
struct RandomBatch {
  Batch batch;
  std::vector<std::int32_t> ids;
  RandomBatch(ProgramMaker& make, std::vector<std::uint64_t> lengths) {
    batch.lengths = std::move(lengths);
    for (std::uint64_t i = 0; i < batch.tokens(); ++i) ids.push_back(static_cast<std::int32_t>(make.pick(50)));
    batch.ids = ids;
  }
  RandomBatch(const RandomBatch&) = delete;
  RandomBatch& operator=(const RandomBatch&) = delete;
};

/// The weights of a maker, ready to run.
struct Runnable {
  Registry registry;
  LogicalTensors logical;
  ModelWeights weights;
  explicit Runnable(const Checkpoint& checkpoint) : logical(checkpoint, registry), weights(logical) {}
};

inline std::vector<float> run_program(const Program& program, const ModelWeights& weights,
                                      const ForwardOptions& options, const Batch& batch) {
  ProgramRunner runner(program, weights, options);
  Values values(program);
  runner.run(0, program.ops.size(), batch, values);
  return values.at(program.output);
}

/// The largest difference in units of the expected values' root mean square.
inline double worst_error(const std::vector<float>& values, const Doubles& expected) {
  if (values.size() != expected.size()) return INFINITY;
  double worst = 0, square = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(static_cast<double>(values[i]) - expected[i]);
    worst = error <= worst ? worst : error;  // NaN counts as worst
    square += expected[i] * expected[i];
  }
  return worst / std::sqrt(square / static_cast<double>(expected.size()));
}

}  // namespace quant::test
