#include "kmeans/points.h"

#include <algorithm>
#include <limits>

namespace quant::kmeans {

void PointCollector::add(std::span<const float> values, std::span<const float> weights) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Adding 0 makes -0 the 0 that it equals.
    items_.push_back({values[i] + 0.0F, weights.empty() ? 1.0F : weights[i]});
  }
}

void PointCollector::join(std::vector<Joined>& joined) {
  // Ordered by weight too, so that sums do not depend on the order of the input.
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
    return a.value < b.value || (a.value == b.value && a.weight < b.weight);
  });
  joined.clear();
  for (const Item& item : items_) {
    if (joined.empty() || joined.back().value != item.value) joined.push_back({item.value, 0, 0});
    ++joined.back().count;
    joined.back().weight += static_cast<double>(item.weight);
  }
}

std::vector<Joined> merge(std::span<const Joined> a, std::span<const Joined> b) {
  std::size_t common = 0;
  const auto walk = [&](const auto& take) {
    std::size_t i = 0, k = 0;
    while (i < a.size() || k < b.size()) {
      if (k == b.size() || (i < a.size() && a[i].value < b[k].value)) {
        take(a[i++]);
      } else if (i == a.size() || b[k].value < a[i].value) {
        take(b[k++]);
      } else {
        const std::uint32_t room = std::numeric_limits<std::uint32_t>::max() - a[i].count;
        take(Joined{a[i].value, a[i].count + std::min(room, b[k].count), a[i].weight + b[k].weight});
        ++i, ++k;
      }
    }
  };
  walk([&](const Joined&) { ++common; });
  std::vector<Joined> all;
  all.reserve(common);  // no more memory than it takes
  walk([&](const Joined& point) { all.push_back(point); });
  return all;
}

void make_points(std::span<const Joined> joined, Points& points) {
  const bool weighted = std::any_of(joined.begin(), joined.end(), [](const Joined& j) { return j.weight > 0; });
  const auto weight_of = [&](const Joined& j) { return weighted ? j.weight : static_cast<double>(j.count); };
  double weight = 0, moment = 0;
  points.members = 0;
  for (const Joined& j : joined) {
    weight += weight_of(j);
    moment += weight_of(j) * static_cast<double>(j.value);
    points.members += j.count;
  }
  points.center = weight > 0 ? moment / weight : 0;
  points.values.clear();
  points.values.reserve(joined.size());
  points.weight.reserve(joined.size() + 1);
  points.moment.reserve(joined.size() + 1);
  points.weight.assign(1, 0.0);
  points.moment.assign(1, 0.0);
  for (const Joined& j : joined) {
    if (!(weight_of(j) > 0)) continue;
    const auto value = static_cast<double>(j.value);
    const double counted = std::max(weight_of(j), kLeastShare * weight);
    points.values.push_back(value);
    points.weight.push_back(points.weight.back() + counted);
    points.moment.push_back(points.moment.back() + counted * (value - points.center));
  }
}

}  // namespace quant::kmeans
