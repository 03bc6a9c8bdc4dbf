// Codebooks by one-dimensional k-means: for each tensor, channel, group or block the 2^bits values that make the
// (weighted) sum of squared errors least.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "quant/algorithm.h"

namespace quant {

enum class KMeansMethod {
  automatic,  ///< exact where that takes no more than about a thousand operations for each weight, else Lloyd
  exact,      ///< the best partition, by dynamic programming; at most 2^26 / clusters different values
  lloyd       ///< Lloyd's iteration on sorted values: a local optimum
};
std::string_view to_string(KMeansMethod method);

struct KMeansOptions {
  KMeansMethod method = KMeansMethod::automatic;
  bool hessian = false;  ///< errors are weighted with the mean square of the column's input (calibration)
};

/// At most `count` ascending values that represent `values` with the least sum of weights[i] * (values[i] - nearest)^2:
/// as many as there are different values with a weight above 0, if those are fewer. `weights`: as many as values, none
/// negative, or empty for 1 each; all zero counts as 1 each. The same result on every machine and for any order of the
/// input; exact up to the rounding of float64 sums. Time O(count n log n), Lloyd O(n log n).
/// Throws Error{usage} for other sizes, negative or infinite numbers, and more different values than the exact method
/// takes. Source: the optimal-partition recursion of Wang
/// and Song 2011 (Ckmeans.1d.dp), its monotone arg max by divide and conquer.
std::vector<double> kmeans_1d(std::span<const float> values, std::span<const float> weights, std::uint32_t count,
                              KMeansMethod method = KMeansMethod::exact);

/// Codes `weight` [rows, cols] with learned codebooks (args.type codebook; strategy tensor, channel, group or block).
/// Entries are rounded to args.scale_dtype (F32 if empty) first, then each weight gets the nearest, the lower code of
/// equally near ones. `importance`: [cols] or [rows * cols], or empty. Unused codes repeat the largest entry.
/// Uses OpenMP; the result does not depend on the number of threads. Errors: Error{usage} for arguments that
/// KMeans cannot make, observers other than min-max, and more different values in a unit than the exact method takes;
/// Error{numerical} naming a NaN or infinite weight.
QuantizedTensor kmeans_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance = {},
                                const KMeansOptions& options = {});
std::unique_ptr<Quantizer> make_kmeans(const KMeansOptions& options = {});

}  // namespace quant
