// Weighted points on a line, ready for clustering.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace quant::kmeans {

/// Far above the rounding of a sum (2^-53), far below what changes a codebook.
inline constexpr double kLeastShare = 1e-12;

/// Different values in ascending order with the sums that clustering needs. Values are counted from their mean, which
/// keeps the sums small. No point weighs less than kLeastShare of all together: differences of sums stay positive.
struct Points {
  std::vector<double> values;  ///< [n], ascending, all different
  std::vector<double> weight;  ///< [n + 1]: sum of weights of the first i points
  std::vector<double> moment;  ///< [n + 1]: sum of weight times (value - center)
  double center = 0;
  std::uint64_t members = 0;  ///< weights that were put in

  std::uint64_t size() const { return values.size(); }
  /// The mean of points [first, end), first < end; among them also where rounding of the sums says otherwise, so that
  /// means of successive clusters ascend.
  double mean(std::uint64_t first, std::uint64_t end) const {
    const double mean = center + (moment[end] - moment[first]) / (weight[end] - weight[first]);
    return std::clamp(mean, values[first], values[end - 1]);
  }
};

/// Collects values and their weights; keeps its memory.
class PointCollector {
 public:
  void clear();
  /// `weights`: as many, or empty for 1 each.
  void add(std::span<const float> values, std::span<const float> weights);
  /// Points of weight 0 are left out, unless all are 0: then each counts 1. Lighter ones than kLeastShare are raised.
  void finish(Points& points);

 private:
  struct Item {
    float value;
    float weight;
  };
  std::vector<Item> items_;
  bool weighted_ = false;
};

}  // namespace quant::kmeans
