// Half-quadratic quantization: zero points of least sum of |error|^p, without calibration data.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/algorithm.h"

namespace quant {

/// In what the shrinkage measures errors.
enum class HqqUnit {
  steps,   ///< in steps of the group's grid: `beta` means the same for weights of any size
  weights  ///< as the weights are: the published algorithm
};

struct HqqOptions {
  double lp_norm = 0.7;     ///< p of the sum of |error|^p; 0.1 to 1
  double beta = 10;         ///< weight of the quadratic term in the first iteration; 1e-6 to 1e12
  double kappa = 1.01;      ///< its growth from one to the next; 1 to 10
  std::int64_t iters = 20;  ///< 0 to 1000
  HqqUnit unit = HqqUnit::steps;
};

/// Codes `weight` [rows, cols] with asymmetric integers of 1 to 8 bits per channel, group or block. With q the codes
/// 0 .. 2^b - 1 of a group and s = (max - min) / (2^b - 1), z = -min / s, each iteration does
///   q = round(clamp(w / s + z)),  e = w - (q - z) s,  e' = sign(e) max(|e| - |e|^(p - 1) / beta, 0),
///   z = mean(q - (w - e') / s),  beta = kappa beta
/// (Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", section 3; p, beta, kappa and
/// iterations as there). Zero points are real numbers of the type args.zp_dtype where that is a floating type; else
/// whole ones, which compressed-tensors stores. Of all z on the way and of round-to-nearest's range and zero point, as
/// they are stored, the one of least sum of importance |error|^p is taken: never worse than round to nearest in that
/// (to 1e-5, the accuracy of the power). `importance`: [cols] or empty. Uses one thread.
/// Errors: Error{usage} for other arguments or options out of range, Error{numerical} for a weight that is not finite.
QuantizedTensor hqq_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {},
                             const HqqOptions& options = {});
/// Throws Error{usage} for options out of range.
std::unique_ptr<Quantizer> make_hqq(const HqqOptions& options = {});

}  // namespace quant
