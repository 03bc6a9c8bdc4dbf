#include "kmeans/points.h"

#include <algorithm>

namespace quant::kmeans {

void PointCollector::clear() {
  items_.clear();
  weighted_ = false;
}

void PointCollector::add(std::span<const float> values, std::span<const float> weights) {
  weighted_ = weighted_ || !weights.empty();
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Adding 0 makes -0 the 0 that it equals.
    items_.push_back({values[i] + 0.0F, weights.empty() ? 1.0F : weights[i]});
  }
}

void PointCollector::finish(Points& points) {
  points.members = items_.size();
  const auto has_weight = [](const Item& item) { return item.weight > 0; };
  if (weighted_ && std::none_of(items_.begin(), items_.end(), has_weight)) {
    for (Item& item : items_) item.weight = 1;
  } else if (weighted_) {
    std::erase_if(items_, [&](const Item& item) { return !has_weight(item); });
  }
  // Ordered by weight too, so that sums do not depend on the order of the input.
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
    return a.value < b.value || (a.value == b.value && a.weight < b.weight);
  });
  double weight = 0, moment = 0;
  for (const Item& item : items_) {
    weight += static_cast<double>(item.weight);
    moment += static_cast<double>(item.weight) * static_cast<double>(item.value);
  }
  points.center = weight > 0 ? moment / weight : 0;
  points.values.clear();
  points.weight.assign(1, 0.0);
  points.moment.assign(1, 0.0);
  for (std::size_t i = 0; i < items_.size();) {
    const auto value = static_cast<double>(items_[i].value);
    double together = 0;
    for (; i < items_.size() && static_cast<double>(items_[i].value) == value; ++i) {
      together += static_cast<double>(items_[i].weight);
    }
    together = std::max(together, kLeastShare * weight);
    points.values.push_back(value);
    points.weight.push_back(points.weight.back() + together);
    points.moment.push_back(points.moment.back() + together * (value - points.center));
  }
}

}  // namespace quant::kmeans
