// Weighted points on a line, ready for clustering.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quant::kmeans {

/// Different values in ascending order with the sums that clustering needs. Values are counted from their mean, which
/// keeps the sums small.
struct Points {
  std::vector<double> values;  ///< [n], ascending, all different
  std::vector<double> weight;  ///< [n + 1]: sum of weights of the first i points
  std::vector<double> moment;  ///< [n + 1]: sum of weight times (value - center)
  double center = 0;
  std::uint64_t members = 0;  ///< weights that were put in

  std::uint64_t size() const { return values.size(); }
  /// The mean of points [first, end).
  double mean(std::uint64_t first, std::uint64_t end) const {
    return center + (moment[end] - moment[first]) / (weight[end] - weight[first]);
  }
};

/// Collects values and their weights; keeps its memory.
class PointCollector {
 public:
  void clear();
  /// `weights`: as many, or empty for 1 each.
  void add(std::span<const float> values, std::span<const float> weights);
  /// Points of weight 0 are left out, unless all are 0: then each counts 1.
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
