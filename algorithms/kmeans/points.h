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

/// A value and those that have it.
struct Joined {
  float value = 0;
  std::uint32_t count = 0;  ///< or the largest number, of more
  double weight = 0;
};

/// Collects values and their weights; keeps its memory.
class PointCollector {
 public:
  void clear() { items_.clear(); }
  /// `weights`: as many, or empty for 1 each. At most 2^32 - 1 values between two clear().
  void add(std::span<const float> values, std::span<const float> weights);
  /// What was added, ascending, equal values joined; the order of the input does not matter.
  void join(std::vector<Joined>& joined);

 private:
  struct Item {
    float value;
    float weight;
  };
  std::vector<Item> items_;
};

/// Of two ascending lists, weights of equal values added.
std::vector<Joined> merge(std::span<const Joined> a, std::span<const Joined> b);

/// Points of ascending values. Those of weight 0 are left out, unless all are 0: then each value counts as often as it
/// was there. Lighter ones than kLeastShare are raised.
void make_points(std::span<const Joined> joined, Points& points);

}  // namespace quant::kmeans
