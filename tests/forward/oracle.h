// Programs executed by plain loops in float64, one token and one head at a time: what the forward pass is compared
// with.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <variant>
#include <vector>

#include "quant/forward.h"
#include "quant/model_program.h"

namespace quant::test {

using Doubles = std::vector<double>;
using Tensors = std::map<std::string, std::vector<float>>;

class Oracle {
 public:
  Oracle(const Program& program, const Tensors& tensors, const Batch& batch)
      : program_(program), tensors_(tensors), batch_(batch), values_(program.values.size()) {
    for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
      const std::uint64_t start = batch.first_position.empty() ? 0 : batch.first_position[s];
      for (std::uint64_t i = 0; i < batch.lengths[s]; ++i)
        tokens_.push_back({s, i, start + i, start + batch.lengths[s]});
    }
  }
  Doubles& at(ValueId id) { return values_[static_cast<std::size_t>(id)]; }
  void set(ValueId id, const std::vector<float>& x) { at(id).assign(x.begin(), x.end()); }
  void run() {
    for (const Op& op : program_.ops) {
      std::visit([&](const auto& one) { execute(one); }, op);
    }
  }

 private:
  struct Token {
    std::size_t sequence;
    std::uint64_t index, position, end_position;
  };
  std::uint64_t width(ValueId id) const { return program_.values[static_cast<std::size_t>(id)].width; }
  double weight(const std::string& name, std::uint64_t i, double missing) const {
    return name.empty() ? missing : static_cast<double>(tensors_.at(name).at(i));
  }

  void execute(const NormOp& op) {
    const Doubles& in = at(op.in);
    const std::uint64_t w = width(op.in), group = op.group == 0 ? w : op.group;
    const bool per_group = !op.weight.empty() && tensors_.at(op.weight).size() == group;
    Doubles out(in.size());
    for (std::uint64_t at0 = 0; at0 < in.size(); at0 += group) {
      double mean = 0, square = 0;
      for (std::uint64_t i = 0; i < group; ++i) mean += in[at0 + i] / static_cast<double>(group);
      if (op.kind == NormKind::rms) mean = 0;
      for (std::uint64_t i = 0; i < group; ++i) square += (in[at0 + i] - mean) * (in[at0 + i] - mean);
      const double root = std::sqrt(square / static_cast<double>(group) + static_cast<double>(op.epsilon));
      for (std::uint64_t i = 0; i < group; ++i) {
        const std::uint64_t c = per_group ? i : (at0 + i) % w;
        const double factor = weight(op.weight, c, 1) + (op.plus_one && !op.weight.empty() ? 1 : 0);
        out[at0 + i] = (in[at0 + i] - mean) / root * factor + weight(op.bias, c, 0);
      }
    }
    at(op.out) = out;
  }

  void multiply_row(const LinearWeight& w, const double* x, double* y) const {
    const std::uint64_t slice = w.slice < 0 ? 0 : static_cast<std::uint64_t>(w.slice);
    const float* values = tensors_.at(w.tensor).data() + slice * w.rows * w.cols;
    for (std::uint64_t r = 0; r < w.rows; ++r) {
      y[r] = weight(w.bias, slice * w.rows + r, 0);
      for (std::uint64_t c = 0; c < w.cols; ++c) {
        y[r] += x[c] * static_cast<double>(values[w.transposed ? c * w.rows + r : r * w.cols + c]);
      }
    }
  }
  // (expert, token) of each row of a gathered value.
  std::vector<std::pair<std::size_t, std::size_t>> rows_of(ValueId routing) {
    const Doubles& r = at(routing);
    const std::uint64_t k = width(routing) / 2;
    std::vector<std::pair<std::size_t, std::size_t>> rows;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (std::uint64_t i = 0; i < k; ++i) rows.emplace_back(static_cast<std::size_t>(r[t * 2 * k + i]), t);
    }
    std::sort(rows.begin(), rows.end());
    return rows;
  }
  void execute(const LinearOp& op) {
    const Doubles& in = at(op.in);
    const std::uint64_t rows = in.size() / width(op.in);
    Doubles out(rows * width(op.out));
    std::vector<std::pair<std::size_t, std::size_t>> order(rows, {0, 0});
    if (op.routing >= 0) order = rows_of(op.routing);
    for (std::uint64_t r = 0; r < rows; ++r) {
      multiply_row(op.weights[order[r].first], &in[r * width(op.in)], &out[r * width(op.out)]);
    }
    at(op.out) = out;
  }
  void execute(const SliceOp& op) {
    const Doubles& in = at(op.in);
    Doubles out;
    for (std::uint64_t row = 0; row < in.size() / width(op.in); ++row) {
      for (std::uint64_t i = 0; i < op.repeat; ++i) {
        for (std::uint64_t c = 0; c < op.width; ++c)
          out.push_back(in[row * width(op.in) + op.first + i * op.stride + c]);
      }
    }
    at(op.out) = out;
  }
  void execute(const RotaryOp& op) {
    Doubles out = at(op.in);
    const std::uint64_t half = op.rotary_dim / 2;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (std::uint64_t h = 0; h < op.heads; ++h) {
        const std::uint64_t head = (t * op.heads + h) * op.head_dim;
        for (std::uint64_t i = 0; i < half; ++i) {
          float frequency = op.inverse_frequency[i];
          if (op.dynamic_base > 0 && tokens_[t].end_position > op.dynamic_length) {
            const double ratio = static_cast<double>(tokens_[t].end_position) / static_cast<double>(op.dynamic_length);
            const auto d = static_cast<double>(op.rotary_dim);
            const double base =
                op.dynamic_base * std::pow(op.dynamic_factor * ratio - op.dynamic_factor + 1, d / (d - 2));
            frequency = static_cast<float>(std::pow(base, -2.0 * static_cast<double>(i) / d));
          }
          const double angle = static_cast<double>(static_cast<float>(tokens_[t].position) * frequency);
          const double c = std::cos(angle) * static_cast<double>(op.magnitude);
          const double s = std::sin(angle) * static_cast<double>(op.magnitude);
          const std::uint64_t a = head + (op.interleaved ? 2 * i : i), b = op.interleaved ? a + 1 : a + half;
          const double x = out[a], y = out[b];
          out[a] = x * c - y * s;
          out[b] = y * c + x * s;
        }
      }
    }
    at(op.out) = out;
  }
  void execute(const AttentionOp& op) {
    const Doubles &q = at(op.q), &k = at(op.k), &v = at(op.v);
    Doubles out(tokens_.size() * op.heads * op.value_dim, 0.0);
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (std::uint64_t h = 0; h < op.heads; ++h) {
        const std::uint64_t g = h / (op.heads / op.kv_heads);
        Doubles score(tokens_.size(), -INFINITY);
        double top = -INFINITY, sum = 0;
        for (std::size_t j = 0; j < tokens_.size(); ++j) {
          if (!sees(op, tokens_[t], tokens_[j])) continue;
          score[j] = 0;
          for (std::uint64_t c = 0; c < op.head_dim; ++c) {
            score[j] += q[(t * op.heads + h) * op.head_dim + c] * k[(j * op.kv_heads + g) * op.head_dim + c];
          }
          score[j] *= static_cast<double>(op.scale);
          const auto cap = static_cast<double>(op.softcap);
          if (cap > 0) score[j] = cap * std::tanh(score[j] / cap);
          top = std::max(top, score[j]);
        }
        for (double& s : score) sum += s = std::exp(s - top);
        for (std::size_t j = 0; j < tokens_.size(); ++j) {
          for (std::uint64_t c = 0; c < op.value_dim; ++c) {
            out[(t * op.heads + h) * op.value_dim + c] += score[j] / sum * v[(j * op.kv_heads + g) * op.value_dim + c];
          }
        }
      }
    }
    at(op.out) = out;
  }
  static bool sees(const AttentionOp& op, const Token& from, const Token& to) {
    if (from.sequence != to.sequence || (op.causal && to.index > from.index)) return false;
    const std::uint64_t distance = from.index > to.index ? from.index - to.index : to.index - from.index;
    return op.window == 0 || distance < op.window;
  }

  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static double function(Activation f, double x) {
    switch (f) {
      case Activation::silu:
        return x * sigmoid(x);
      case Activation::gelu:
        return x * std::erfc(-x / std::sqrt(2.0)) / 2;
      case Activation::gelu_tanh:
        return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
      case Activation::quick_gelu:
        return x * sigmoid(1.702 * x);
      case Activation::relu:
        return std::max(x, 0.0);
      case Activation::relu2:
        return std::max(x, 0.0) * std::max(x, 0.0);
      case Activation::tanh:
        return std::tanh(x);
      case Activation::sigmoid:
        return sigmoid(x);
    }
    return NAN;
  }
  void execute(const ActivationOp& op) {
    Doubles out = at(op.in);
    for (double& x : out) x = function(op.function, x);
    at(op.out) = out;
  }
  void execute(const MultiplyOp& op) {
    Doubles out = at(op.a);
    const Doubles& b = at(op.b);
    const std::uint64_t per = out.size() / b.size();
    for (std::size_t i = 0; i < out.size(); ++i) out[i] *= b[i / per];
    at(op.out) = out;
  }
  void execute(const AddOp& op) {
    Doubles out = at(op.a);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += at(op.b)[i];
    at(op.out) = out;
  }
  void execute(const ScaleOp& op) {
    Doubles out = at(op.in);
    for (double& x : out) x *= static_cast<double>(op.factor);
    at(op.out) = out;
  }
  void execute(const SoftcapOp& op) {
    Doubles out = at(op.in);
    for (double& x : out) x = static_cast<double>(op.cap) * std::tanh(x / static_cast<double>(op.cap));
    at(op.out) = out;
  }
  void execute(const RouteOp& op) {
    const Doubles& logits = at(op.logits);
    Doubles out;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      const double* row = &logits[t * op.experts];
      std::vector<std::size_t> order(op.experts);
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
      double all = 0, chosen = 0;
      for (std::size_t e = 0; e < op.experts; ++e) all += std::exp(row[e]);
      for (std::size_t i = 0; i < op.top_k; ++i) chosen += std::exp(row[order[i]]);
      const double divisor = op.softmax_first && !op.normalize ? all : chosen;
      for (std::size_t i = 0; i < op.top_k; ++i) out.push_back(static_cast<double>(order[i]));
      for (std::size_t i = 0; i < op.top_k; ++i) {
        out.push_back(std::exp(row[order[i]]) / divisor * static_cast<double>(op.factor));
      }
    }
    at(op.out) = out;
  }
  void execute(const GatherOp& op) {
    Doubles out;
    const std::uint64_t w = width(op.in);
    for (const auto& [expert, token] : rows_of(op.routing)) {
      for (std::uint64_t c = 0; c < w; ++c) out.push_back(at(op.in)[token * w + c]);
    }
    at(op.out) = out;
  }
  void execute(const CombineOp& op) {
    const std::uint64_t w = width(op.in), k = width(op.routing) / 2;
    Doubles out(tokens_.size() * w, 0.0);
    const auto rows = rows_of(op.routing);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto [expert, token] = rows[r];
      double factor = 0;
      for (std::uint64_t i = 0; i < k; ++i) {
        const double* route = &at(op.routing)[token * 2 * k];
        if (static_cast<std::size_t>(route[i]) == expert) factor = route[k + i];
      }
      for (std::uint64_t c = 0; c < w; ++c) out[token * w + c] += factor * at(op.in)[r * w + c];
    }
    at(op.out) = out;
  }
  void execute(const EmbeddingOp& op) {
    const std::uint64_t w = width(op.out);
    Doubles out;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      std::int64_t row = 0;
      if (op.index == EmbeddingOp::Index::token) row = batch_.ids[t];
      if (op.index == EmbeddingOp::Index::position) row = static_cast<std::int64_t>(tokens_[t].position) + op.offset;
      for (std::uint64_t c = 0; c < w; ++c) {
        out.push_back(weight(op.weight, static_cast<std::uint64_t>(row) * w + c, 0) * static_cast<double>(op.factor));
      }
    }
    at(op.out) = out;
  }

  const Program& program_;
  const Tensors& tensors_;
  const Batch& batch_;
  std::vector<Doubles> values_;
  std::vector<Token> tokens_;
};

}  // namespace quant::test
