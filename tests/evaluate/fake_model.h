// Models whose logits are a formula of the tokens before: evaluation can be checked without a forward pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "quant/evaluate.h"

namespace quant::test {

class FakeModel final : public LogitModel {
 public:
  explicit FakeModel(std::uint64_t vocabulary, unsigned seed, double noise = 0, std::uint64_t group = 1000)
      : vocabulary_(vocabulary), group_(group), seed_(seed), noise_(noise) {}

  std::uint64_t vocabulary() const override { return vocabulary_; }
  std::uint64_t group_tokens() const override { return group_; }
  void run(std::span<const std::vector<std::int32_t>> sequences, const std::function<void(double)>& progress) override {
    states_.clear();
    for (const auto& sequence : sequences) {
      std::uint32_t state = 17;
      for (const std::int32_t id : sequence) states_.push_back(state = state * 31U + static_cast<std::uint32_t>(id));
    }
    largest_group_ = std::max<std::uint64_t>(largest_group_, states_.size());
    if (progress) progress(1.0);
  }
  void logits(std::span<const std::uint64_t> rows, std::span<float> out) override {
    largest_chunk_ = std::max<std::uint64_t>(largest_chunk_, rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::vector<float> row = logits_after(states_.at(rows[i]));
      std::copy(row.begin(), row.end(), out.begin() + static_cast<std::ptrdiff_t>(i * vocabulary_));
    }
  }
  /// Of the model after a prefix with this state.
  std::vector<float> logits_after(std::uint32_t state) const {
    std::minstd_rand shared(state % 1000003U + 1);
    std::minstd_rand own(state % 999983U + seed_);
    std::normal_distribution<float> normal(0.0F, 3.0F);
    std::vector<float> row(vocabulary_);
    for (float& value : row) value = normal(shared);
    normal.reset();
    for (float& value : row) value += static_cast<float>(noise_) * normal(own);
    if (state == broken_state) row.back() = std::numeric_limits<float>::quiet_NaN();
    return row;
  }

  std::uint32_t broken_state = 0;  ///< the logits after this prefix hold a NaN
  std::uint64_t largest_group() const { return largest_group_; }
  std::uint64_t largest_chunk() const { return largest_chunk_; }

 private:
  std::uint64_t vocabulary_;
  std::uint64_t group_;
  unsigned seed_;
  double noise_;
  std::vector<std::uint32_t> states_;
  std::uint64_t largest_group_ = 0;
  std::uint64_t largest_chunk_ = 0;
};

inline std::vector<std::vector<std::int32_t>> random_sequences(const std::vector<std::size_t>& lengths,
                                                               std::uint64_t vocabulary, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<std::vector<std::int32_t>> sequences;
  for (const std::size_t length : lengths) {
    auto& sequence = sequences.emplace_back();
    for (std::size_t i = 0; i < length; ++i) sequence.push_back(static_cast<std::int32_t>(random() % vocabulary));
  }
  return sequences;
}

/// softmax in long double.
inline std::vector<long double> reference_softmax(const std::vector<float>& logits) {
  std::vector<long double> p(logits.begin(), logits.end());
  const long double largest = *std::max_element(p.begin(), p.end());
  long double sum = 0;
  for (long double& value : p) sum += value = std::exp(value - largest);
  for (long double& value : p) value /= sum;
  return p;
}

}  // namespace quant::test
