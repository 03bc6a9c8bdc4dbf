#include "smoothing/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/linalg.h"
#include "quant/observers.h"
#include "smoothing/trial.h"

namespace quant::smoothing {
namespace {

/// Runs `measure`; a scaled weight that is not finite makes the factors infinitely bad rather than an error.
template <class Measure>
double or_infinite(const Measure& measure) {
  double loss = 0;
  try {
    loss = measure();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::numerical) throw;
    return std::numeric_limits<double>::infinity();
  }
  return std::isfinite(loss) ? loss : std::numeric_limits<double>::infinity();
}

class GramLoss final : public GroupLoss {
 public:
  GramLoss(const SmoothingGroup& group, const InputStatistics& inputs, int threads)
      : group_(group), inputs_(inputs), threads_(threads) {}

  double of(std::span<const float> s) override {
    return or_infinite([&] {
      double sum = 0;
      for (const LinearTask& reader : group_.balance) {
        if (reader.quantized) sum += of_reader(reader, s);
      }
      return sum;
    });
  }

 private:
  double of_reader(const LinearTask& reader, std::span<const float> s) {
    d_.resize(reader.rows * reader.cols);
    rows_.resize(reader.rows);
    rounding_error(reader, s, importance_of(reader, inputs_, s), d_, threads_);
    quadratic_forms(d_, reader.rows, inputs_.gram, reader.cols, rows_, threads_);
    double sum = 0;
    for (const double one : rows_) sum += one;
    return sum;
  }

  const SmoothingGroup& group_;
  const InputStatistics& inputs_;
  int threads_;
  std::vector<float> d_;
  std::vector<double> rows_;
};

class OutputLoss final : public GroupLoss {
 public:
  OutputLoss(const SmoothingGroup& group, const InputStatistics& inputs, int threads)
      : group_(group), inputs_(inputs), threads_(threads), count_(inputs.rows.size() / inputs.cols) {
    for (const LinearTask& reader : group.balance) {
      outputs_.emplace_back();
      if (reader.quantized && reader.input_args) multiply(inputs.rows, reader.weight, reader.rows, outputs_.back());
    }
  }

  double of(std::span<const float> s) override {
    return or_infinite([&] {
      double sum = 0;
      const QuantArgs* last = nullptr;
      for (std::size_t i = 0; i < group_.balance.size(); ++i) {
        const LinearTask& reader = group_.balance[i];
        if (!reader.quantized) continue;
        if (reader.input_args && (last == nullptr || !(*last == *reader.input_args))) quantize_inputs(reader, s);
        if (reader.input_args) last = &*reader.input_args;
        sum += of_reader(reader, outputs_[i], s);
      }
      return sum / static_cast<double>(std::max<std::uint64_t>(1, count_));
    });
  }

 private:
  void multiply(std::span<const float> x, std::span<const float> w, std::uint64_t rows, std::vector<float>& y) {
    y.resize(count_ * rows);
    gemm(count_, rows, inputs_.cols, 1.0F, {x.data(), inputs_.cols}, {w.data(), inputs_.cols}, true, 0.0F,
         {y.data(), rows}, threads_);
  }

  /// quantized_ = Qa(X diag(1/s)) diag(s): in the units of X.
  void quantize_inputs(const LinearTask& reader, std::span<const float> s) {
    const std::uint64_t cols = inputs_.cols;
    quantized_.assign(inputs_.rows.begin(), inputs_.rows.end());
    if (!s.empty()) {
      for (std::size_t i = 0; i < quantized_.size(); ++i) quantized_[i] /= s[i % cols];
    }
    round_inputs(quantized_, cols, *reader.input_args, fixed_scale(*reader.input_args, s), threads_);
    if (s.empty()) return;
    for (std::size_t i = 0; i < quantized_.size(); ++i) quantized_[i] *= s[i % cols];
  }

  /// From all inputs seen, as the scale that will be stored; without their range, from the sampled rows.
  TensorParams fixed_scale(const QuantArgs& args, std::span<const float> s) const {
    TensorParams fixed;
    if (args.dynamic == Dynamic::yes || inputs_.minimum.empty()) return fixed;
    float low = 0;
    float high = 0;
    for (std::uint64_t c = 0; c < inputs_.cols; ++c) {
      const float factor = s.empty() ? 1.0F : s[c];
      low = std::min(low, inputs_.minimum[c] / factor);
      high = std::max(high, inputs_.maximum[c] / factor);
    }
    if (args.dynamic == Dynamic::local) {
      fixed.global_scale = static_activation_global_scale(low, high);
    } else if (args.strategy == Strategy::tensor) {
      const StaticScale found = static_activation_scale(args, low, high);
      fixed.scale = found.scale;
      if (!args.symmetric) fixed.zero_point = found.zero_point;
    }
    return fixed;
  }

  double of_reader(const LinearTask& reader, const std::vector<float>& exact, std::span<const float> s) {
    d_.resize(reader.rows * reader.cols);
    rounding_error(reader, s, importance_of(reader, inputs_, s), d_, threads_);
    if (!reader.input_args) {
      multiply(inputs_.rows, d_, reader.rows, y_);
      return squares({});
    }
    for (std::size_t i = 0; i < d_.size(); ++i) d_[i] += reader.weight[i];
    multiply(quantized_, d_, reader.rows, y_);
    return squares(exact);
  }

  double squares(std::span<const float> exact) const {
    double sum = 0;
    for (std::size_t i = 0; i < y_.size(); ++i) {
      const double error = static_cast<double>(y_[i]) - (exact.empty() ? 0.0 : static_cast<double>(exact[i]));
      sum += error * error;
    }
    return sum;
  }

  const SmoothingGroup& group_;
  const InputStatistics& inputs_;
  int threads_;
  std::uint64_t count_;
  std::vector<std::vector<float>> outputs_;
  std::vector<float> d_, y_, quantized_;
};

}  // namespace

std::unique_ptr<GroupLoss> make_gram_loss(const SmoothingGroup& group, const InputStatistics& inputs, int threads) {
  return std::make_unique<GramLoss>(group, inputs, threads);
}

std::unique_ptr<GroupLoss> make_output_loss(const SmoothingGroup& group, const InputStatistics& inputs, int threads) {
  return std::make_unique<OutputLoss>(group, inputs, threads);
}

}  // namespace quant::smoothing
