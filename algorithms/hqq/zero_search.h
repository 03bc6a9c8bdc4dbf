// The zero point of one group of weights.
#pragma once

#include <span>
#include <vector>

#include "quant/hqq.h"
#include "quant/kernel_table.h"
#include "quant/scale_rules.h"

namespace quant::hqq {

/// |x|^(p - 1) by interpolation between 4096 values of 0..1 (relative error below 1e-5), exactly outside 1/32..1.
class InversePower {
 public:
  explicit InversePower(double norm);
  float operator()(float x) const;

 private:
  float exponent_;
  std::vector<float> values_;
};

struct GroupChoice {
  float scale = 0;  ///< as stored
  float zero_point = 0;
};

/// Options with what follows from them, shared by all threads.
struct Settings {
  explicit Settings(const HqqOptions& given);
  HqqOptions options;
  PowerTable power;
  InversePower inverse_power;
};

/// For one thread; keeps its buffers.
class ZeroSearch {
 public:
  /// `keep_zeros`: the zero point of values with a 0 among them is a code.
  ZeroSearch(const Settings& settings, const ScaleRules& rules, DType zero_dtype, bool keep_zeros)
      : settings_(&settings), rules_(rules), zero_dtype_(zero_dtype), keep_zeros_(keep_zeros) {}

  /// `values` are finite and not empty; `importance` as many or none.
  GroupChoice choose(std::span<const float> values, std::span<const float> importance);

 private:
  void add_plain(float smallest, float largest);
  void iterate(std::span<const float> values, std::span<const float> importance, float smallest, float scale);
  double next_zero(std::span<const float> importance, double zero, double beta, double unit) const;
  void add(float scale, double zero);

  const Settings* settings_;
  ScaleRules rules_;
  DType zero_dtype_;  // I8: whole numbers
  bool keep_zeros_, whole_ = false;
  std::vector<float> ones_;            // importance where none is given
  std::vector<float> steps_;           // weights in steps of the scale
  std::vector<float> scales_, zeros_;  // candidates
  std::vector<double> errors_;
};

}  // namespace quant::hqq
