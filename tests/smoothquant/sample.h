// A group of linears with inputs that have outlier channels, and float64 oracles of what quantization does to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "quant/calibrated.h"

namespace quant::test {

/// The same numbers everywhere: a 64-bit linear congruence, sums of uniforms for a bell curve.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed * 2654435761U + 1U) {}
  double uniform() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<double>(state_ >> 11U) * 0x1p-53;
  }
  double bell() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  std::uint64_t state_;
};

inline QuantArgs int_args(int bits, Strategy strategy, std::int64_t group = 0, bool symmetric = true) {
  QuantArgs args;
  args.num_bits = bits;
  args.strategy = strategy;
  args.symmetric = symmetric;
  if (group > 0) args.group_size = group;
  if (strategy == Strategy::token) args.dynamic = Dynamic::yes;
  return args;
}

/// Owns what a SmoothingGroup refers to. Linears "l.0", "l.1", ... read the same inputs.
struct Sample {
  std::uint64_t cols = 0;
  std::vector<std::vector<float>> weights;
  std::vector<LinearTask> tasks;
  InputStatistics inputs;
  std::vector<std::uint32_t> channel;

  Sample(std::uint64_t columns, std::uint64_t tokens, const std::vector<std::uint64_t>& rows, const QuantArgs& args,
         std::uint64_t seed = 1)
      : cols(columns) {
    Numbers numbers(seed);
    weights.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      for (std::uint64_t k = 0; k < rows[i] * cols; ++k) {
        weights[i].push_back(static_cast<float>(0.05 * numbers.bell()));
      }
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      LinearTask task;
      task.module = "l." + std::to_string(i);
      task.rows = rows[i];
      task.cols = cols;
      task.weight = weights[i];
      task.args = args;
      tasks.push_back(std::move(task));
    }
    for (std::uint64_t k = 0; k < tokens * cols; ++k) {
      const double size = k % cols % 13 == 5 ? 40.0 : 0.3 + static_cast<double>(k % cols) / static_cast<double>(cols);
      inputs.rows.push_back(static_cast<float>(size * numbers.bell() + (k % cols % 7 == 2 ? 0.8 : 0.0)));
    }
    collect(tokens);
  }

  /// All statistics, from inputs.rows.
  void collect(std::uint64_t tokens) {
    inputs.tokens = tokens;
    inputs.cols = cols;
    inputs.absmax.assign(cols, 0);
    inputs.minimum.assign(cols, 1e30F);
    inputs.maximum.assign(cols, -1e30F);
    std::vector<double> sums(cols, 0);
    std::vector<double> gram(cols * cols, 0);
    for (std::uint64_t t = 0; t < tokens; ++t) {
      const float* x = inputs.rows.data() + t * cols;
      for (std::uint64_t c = 0; c < cols; ++c) {
        inputs.absmax[c] = std::max(inputs.absmax[c], std::fabs(x[c]));
        inputs.minimum[c] = std::min(inputs.minimum[c], x[c]);
        inputs.maximum[c] = std::max(inputs.maximum[c], x[c]);
        sums[c] += std::fabs(static_cast<double>(x[c]));
        for (std::uint64_t k = 0; k < cols; ++k) {
          gram[c * cols + k] += static_cast<double>(x[c]) * static_cast<double>(x[k]);
        }
      }
    }
    inputs.mean_abs.clear();
    inputs.gram.clear();
    for (const double sum : sums) inputs.mean_abs.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
    for (const double one : gram) inputs.gram.push_back(static_cast<float>(one / static_cast<double>(tokens)));
  }

  SmoothingGroup group(ProducerKind kind = ProducerKind::norm) {
    return {kind, "model.layers.0.input_layernorm", tasks, channel};
  }
};

using Matrix = std::vector<double>;

/// Rounds `values` in pieces of `piece` to signed integers and back, as compressed-tensors does. What decides a code is
/// computed in float32, as it is defined: the largest value is always a tie between two codes.
inline void fake_quantize(std::vector<float>& values, std::size_t piece, int bits, bool symmetric) {
  const auto lowest = static_cast<float>(-std::ldexp(1.0, bits - 1));
  const float highest = -lowest - 1;
  for (std::size_t begin = 0; begin < values.size(); begin += piece) {
    float low = 0;
    float high = 0;
    for (std::size_t i = begin; i < begin + piece; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
    const float scale = symmetric ? std::max(-low, high) / (highest + 0.5F) : (high - low) / (highest - lowest);
    if (scale == 0) continue;
    const float zero = symmetric ? 0 : std::nearbyint(std::clamp(lowest - low / scale, lowest, highest));
    for (std::size_t i = begin; i < begin + piece; ++i) {
      values[i] = (std::nearbyint(std::clamp(values[i] / scale + zero, lowest, highest)) - zero) * scale;
    }
  }
}

/// Mean over tokens of |Qa(X / s) Q(W s)^T - X W^T|^2 summed over all readers; pieces of `group` weights (0: a row)
/// share a scale; `input_bits` 0: inputs stay as they are, else one scale per token.
inline double oracle_loss(const Sample& sample, const std::vector<float>& s, int bits, std::size_t group,
                          bool symmetric, int input_bits) {
  const std::size_t cols = sample.cols;
  const std::size_t tokens = sample.inputs.rows.size() / cols;
  const auto factor = [&](std::size_t c) { return s.empty() ? 1.0F : s[c]; };
  std::vector<float> x = sample.inputs.rows;
  for (std::size_t i = 0; i < x.size(); ++i) x[i] /= factor(i % cols);
  if (input_bits > 0) fake_quantize(x, cols, input_bits, true);
  double sum = 0;
  for (const auto& weight : sample.weights) {
    std::vector<float> w = weight;
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= factor(i % cols);
    fake_quantize(w, group == 0 ? cols : group, bits, symmetric);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t r = 0; r < weight.size() / cols; ++r) {
        double error = 0;
        for (std::size_t c = 0; c < cols; ++c) {
          error += static_cast<double>(x[t * cols + c]) * static_cast<double>(w[r * cols + c]) -
                   static_cast<double>(sample.inputs.rows[t * cols + c]) * static_cast<double>(weight[r * cols + c]);
        }
        sum += error * error;
      }
    }
  }
  return sum / static_cast<double>(tokens);
}

/// The outputs of all readers for the sampled rows, computed in float64 with inputs / s and weights * s.
inline Matrix outputs(const Sample& sample, const std::vector<float>& s) {
  Matrix y;
  const std::size_t cols = sample.cols;
  for (const auto& weight : sample.weights) {
    for (std::size_t t = 0; t < sample.inputs.rows.size() / cols; ++t) {
      for (std::size_t r = 0; r < weight.size() / cols; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < cols; ++c) {
          const float factor = s.empty() ? 1.0F : s[c];
          sum += static_cast<double>(sample.inputs.rows[t * cols + c] / factor) *
                 static_cast<double>(weight[r * cols + c] * factor);
        }
        y.push_back(sum);
      }
    }
  }
  return y;
}

/// The largest difference relative to the largest value.
inline double distance(const Matrix& a, const Matrix& b) {
  double most = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(a[i] - b[i]));
    size = std::max(size, std::fabs(a[i]));
  }
  return most / size;
}

}  // namespace quant::test
