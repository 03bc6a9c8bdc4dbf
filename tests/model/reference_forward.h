// Executes programs in float64, one operation after another, one sequence at a time: the definition of every operation,
// independent of the library's forward pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "quant/logical_tensors.h"
#include "quant/model_program.h"

namespace quant::test {

class ReferenceForward {
 public:
  explicit ReferenceForward(const LogicalTensors& tensors) : tensors_(tensors) {}

  /// The output of the whole model for one sequence.
  std::vector<double> run(const ModelProgram& model, const std::vector<std::int32_t>& ids) {
    std::vector<double> x = run(model.embeddings, {}, ids);
    for (const Program& block : model.blocks) x = run(block, x, ids);
    return run(model.head, x, ids);
  }

  std::vector<double> run(const Program& program, const std::vector<double>& input,
                          const std::vector<std::int32_t>& ids) {
    program_ = &program;
    ids_ = ids;
    values_.assign(program.values.size(), {});
    if (program.input >= 0) at(program.input) = input;
    for (const Op& op : program.ops) std::visit([&](const auto& one) { execute(one); }, op);
    return at(program.output);
  }

 private:
  using Values = std::vector<double>;

  Values& at(ValueId id) { return values_[static_cast<std::size_t>(id)]; }
  std::size_t width(ValueId id) const { return program_->values[static_cast<std::size_t>(id)].width; }
  std::size_t tokens() const { return ids_.size(); }

  const std::vector<float>& tensor(const std::string& name) {
    auto found = tensors_read_.find(name);
    if (found == tensors_read_.end()) {
      const LogicalTensor* info = tensors_.find(name);
      if (info == nullptr) throw std::runtime_error("no tensor " + name);
      std::vector<float> values(info->count());
      tensors_.read_rows(*info, 0, info->rows, values);
      found = tensors_read_.emplace(name, std::move(values)).first;
    }
    return found->second;
  }

  void execute(const EmbeddingOp& op) {
    const auto& table = tensor(op.weight);
    const std::size_t w = width(op.out);
    Values out(tokens() * w);
    for (std::size_t t = 0; t < tokens(); ++t) {
      std::size_t row = 0;
      if (op.index == EmbeddingOp::Index::token) row = static_cast<std::size_t>(ids_[t]);
      if (op.index == EmbeddingOp::Index::position) row = t + static_cast<std::size_t>(op.offset);
      for (std::size_t c = 0; c < w; ++c) out[t * w + c] = table.at(row * w + c) * static_cast<double>(op.factor);
    }
    at(op.out) = out;
  }

  void execute(const NormOp& op) {
    const Values& in = at(op.in);
    Values out = in;
    const std::size_t w = width(op.in);
    const std::size_t group = op.group == 0 ? w : op.group;
    for (std::size_t start = 0; start < in.size(); start += group) {
      const auto begin = in.begin() + static_cast<std::ptrdiff_t>(start);
      const auto end = begin + static_cast<std::ptrdiff_t>(group);
      const double n = static_cast<double>(group);
      const double mean = op.kind == NormKind::layer ? std::accumulate(begin, end, 0.0) / n : 0.0;
      double square = 0;
      for (auto it = begin; it != end; ++it) square += (*it - mean) * (*it - mean);
      const double factor = 1 / std::sqrt(square / n + static_cast<double>(op.epsilon));
      const std::string weight = op.group_weights.empty() ? op.weight : op.group_weights.at(start % w / group);
      for (std::size_t c = 0; c < group; ++c) {
        double value = (in[start + c] - mean) * factor;
        if (!weight.empty()) value *= tensor(weight).at(c) + (op.plus_one ? 1.0 : 0.0);
        if (!op.bias.empty()) value += tensor(op.bias).at(c);
        out[start + c] = value;
      }
    }
    at(op.out) = out;
  }

  // One matrix, for rows [first, last) of the input.
  void multiply(const LinearWeight& weight, const Values& in, std::size_t first, std::size_t last, Values& out) {
    const float* w = tensor(weight.tensor).data();
    if (weight.slice >= 0) w += static_cast<std::size_t>(weight.slice) * weight.rows * weight.cols;
    for (std::size_t t = first; t < last; ++t) {
      for (std::size_t r = 0; r < weight.rows; ++r) {
        double sum = weight.bias.empty() ? 0.0 : static_cast<double>(tensor(weight.bias).at(r));
        for (std::size_t c = 0; c < weight.cols; ++c) {
          const float one = weight.transposed ? w[c * weight.rows + r] : w[r * weight.cols + c];
          sum += in[t * weight.cols + c] * static_cast<double>(one);
        }
        out[t * weight.rows + r] = sum;
      }
    }
  }

  void execute(const LinearOp& op) {
    const Values& in = at(op.in);
    const std::size_t rows = in.size() / width(op.in);
    Values out(rows * width(op.out));
    if (op.routing < 0) {
      multiply(op.weights.at(0), in, 0, rows, out);
    } else {
      const auto order = expert_order(op.routing);
      for (std::size_t i = 0; i < order.size(); ++i) multiply(op.weights.at(order[i].expert), in, i, i + 1, out);
    }
    at(op.out) = out;
  }

  void execute(const SliceOp& op) {
    const Values& in = at(op.in);
    const std::size_t w = width(op.in);
    Values out;
    for (std::size_t row = 0; row < in.size() / w; ++row) {
      for (std::size_t i = 0; i < op.repeat; ++i) {
        for (std::size_t c = 0; c < op.width; ++c) out.push_back(in.at(row * w + op.first + i * op.stride + c));
      }
    }
    at(op.out) = out;
  }

  std::vector<double> frequencies(const RotaryOp& op) const {
    std::vector<double> result(op.inverse_frequency.begin(), op.inverse_frequency.end());
    const auto& far = op.long_inverse_frequency;
    if (!far.empty() && tokens() > op.dynamic_length) result.assign(far.begin(), far.end());
    if (op.dynamic_base > 0 && tokens() > op.dynamic_length) {
      const double stretch = op.dynamic_factor * static_cast<double>(tokens()) / static_cast<double>(op.dynamic_length);
      const auto dim = static_cast<double>(op.rotary_dim);
      const double base = op.dynamic_base * std::pow(stretch - (op.dynamic_factor - 1), dim / (dim - 2));
      for (std::size_t i = 0; i < result.size(); ++i) result[i] = std::pow(base, -2.0 * static_cast<double>(i) / dim);
    }
    return result;
  }

  void execute(const RotaryOp& op) {
    const Values& in = at(op.in);
    Values out = in;
    const std::vector<double> frequency = frequencies(op);
    const std::size_t half = op.rotary_dim / 2;
    for (std::size_t t = 0; t < tokens(); ++t) {
      for (std::size_t h = 0; h < op.heads; ++h) {
        const std::size_t start = (t * op.heads + h) * op.head_dim;
        for (std::size_t i = 0; i < half; ++i) {
          const std::size_t a = start + (op.interleaved ? 2 * i : i);
          const std::size_t b = start + (op.interleaved ? 2 * i + 1 : i + half);
          const double angle = static_cast<double>(t) * frequency[i];
          const double c = std::cos(angle) * static_cast<double>(op.magnitude);
          const double s = std::sin(angle) * static_cast<double>(op.magnitude);
          out[a] = in[a] * c - in[b] * s;
          out[b] = in[b] * c + in[a] * s;
        }
      }
    }
    at(op.out) = out;
  }

  double score(const AttentionOp& op, std::size_t i, std::size_t j, std::size_t head) {
    const std::size_t kv = head / (op.heads / op.kv_heads);
    double sum = 0;
    for (std::size_t c = 0; c < op.head_dim; ++c) {
      sum += at(op.q)[(i * op.heads + head) * op.head_dim + c] * at(op.k)[(j * op.kv_heads + kv) * op.head_dim + c];
    }
    sum *= static_cast<double>(op.scale);
    const auto cap = static_cast<double>(op.softcap);
    return cap > 0 ? cap * std::tanh(sum / cap) : sum;
  }

  void execute(const AttentionOp& op) {
    Values out(tokens() * op.heads * op.value_dim);
    for (std::size_t i = 0; i < tokens(); ++i) {
      for (std::size_t head = 0; head < op.heads; ++head) {
        const std::size_t kv = head / (op.heads / op.kv_heads);
        std::vector<std::pair<std::size_t, double>> seen;
        for (std::size_t j = 0; j < tokens(); ++j) {
          if (op.causal && j > i) continue;
          if (op.window > 0 && j + op.window <= i) continue;
          seen.emplace_back(j, std::exp(score(op, i, j, head)));
        }
        double total = 0;
        for (const auto& [j, weight] : seen) total += weight;
        for (const auto& [j, weight] : seen) {
          for (std::size_t c = 0; c < op.value_dim; ++c) {
            out[(i * op.heads + head) * op.value_dim + c] +=
                weight / total * at(op.v)[(j * op.kv_heads + kv) * op.value_dim + c];
          }
        }
      }
    }
    at(op.out) = out;
  }

  static double activate(Activation function, double x) {
    const double root = 0.79788456080286535588;  // sqrt(2 / pi)
    switch (function) {
      case Activation::silu:
        return x / (1 + std::exp(-x));
      case Activation::gelu:
        return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
      case Activation::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(root * (x + 0.044715 * x * x * x)));
      case Activation::quick_gelu:
        return x / (1 + std::exp(-1.702 * x));
      case Activation::relu:
        return std::max(x, 0.0);
      case Activation::relu2:
        return std::max(x, 0.0) * std::max(x, 0.0);
      case Activation::tanh:
        return std::tanh(x);
      case Activation::sigmoid:
        return 1 / (1 + std::exp(-x));
    }
    throw std::runtime_error("unknown activation");
  }

  void execute(const ActivationOp& op) {
    Values out = at(op.in);
    for (double& x : out) x = activate(op.function, x);
    at(op.out) = out;
  }

  void execute(const MultiplyOp& op) {
    Values out = at(op.a);
    const bool per_row = width(op.b) == 1;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] *= at(op.b).at(per_row ? i / width(op.a) : i);
    at(op.out) = out;
  }

  void execute(const AddOp& op) {
    Values out = at(op.a);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += at(op.b).at(i);
    at(op.out) = out;
  }

  void execute(const ScaleOp& op) {
    Values out = at(op.in);
    for (double& x : out) x *= static_cast<double>(op.factor);
    at(op.out) = out;
  }

  void execute(const SoftcapOp& op) {
    Values out = at(op.in);
    const auto cap = static_cast<double>(op.cap);
    for (double& x : out) x = cap * std::tanh(x / cap);
    at(op.out) = out;
  }

  static void softmax(Values& x) {
    double total = 0;
    for (double& value : x) total += value = std::exp(value);
    for (double& value : x) value /= total;
  }

  void execute(const RouteOp& op) {
    Values out;
    for (std::size_t t = 0; t < tokens(); ++t) {
      const auto row = at(op.logits).begin() + static_cast<std::ptrdiff_t>(t * op.experts);
      Values scores(row, row + static_cast<std::ptrdiff_t>(op.experts));
      if (op.softmax_first) softmax(scores);
      std::vector<std::size_t> order(op.experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
      Values chosen;
      for (std::size_t k = 0; k < op.top_k; ++k) chosen.push_back(scores[order[k]]);
      if (!op.softmax_first) softmax(chosen);
      const double total = op.normalize ? std::accumulate(chosen.begin(), chosen.end(), 0.0) : 1.0;
      for (std::size_t k = 0; k < op.top_k; ++k) out.push_back(static_cast<double>(order[k]));
      for (std::size_t k = 0; k < op.top_k; ++k) out.push_back(chosen[k] / total * static_cast<double>(op.factor));
    }
    at(op.out) = out;
  }

  struct Row {
    std::size_t expert = 0, token = 0;
    double weight = 0;
  };
  // The rows of a value made by GatherOp: by expert, then by token.
  std::vector<Row> expert_order(ValueId routing) {
    const std::size_t top_k = width(routing) / 2;
    std::vector<Row> rows;
    for (std::size_t t = 0; t < tokens(); ++t) {
      for (std::size_t k = 0; k < top_k; ++k) {
        const Values& routes = at(routing);
        rows.push_back({static_cast<std::size_t>(routes[2 * t * top_k + k]), t, routes[(2 * t + 1) * top_k + k]});
      }
    }
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.expert < b.expert; });
    return rows;
  }

  void execute(const GatherOp& op) {
    Values out;
    const std::size_t w = width(op.in);
    for (const Row& row : expert_order(op.routing)) {
      for (std::size_t c = 0; c < w; ++c) out.push_back(at(op.in)[row.token * w + c]);
    }
    at(op.out) = out;
  }

  void execute(const CombineOp& op) {
    const std::size_t w = width(op.in);
    Values out(tokens() * w);
    const auto order = expert_order(op.routing);
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t c = 0; c < w; ++c) out[order[i].token * w + c] += order[i].weight * at(op.in)[i * w + c];
    }
    at(op.out) = out;
  }

  const LogicalTensors& tensors_;
  const Program* program_ = nullptr;
  std::vector<std::int32_t> ids_;
  std::vector<Values> values_;
  std::map<std::string, std::vector<float>> tensors_read_;
};

}  // namespace quant::test
