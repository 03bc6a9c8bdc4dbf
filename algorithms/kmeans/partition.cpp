#include "kmeans/partition.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace quant::kmeans {
namespace {

constexpr std::uint32_t kLanes = 8;
constexpr std::uint32_t kChunk = 256;
constexpr int kLloydRounds = 200;

// The largest of `count` numbers, a multiple of kLanes; compilers make vector maxima of the inner loop.
double largest(const double* values, std::uint32_t count) {
  std::array<double, kLanes> best{};
  for (std::uint32_t l = 0; l < kLanes; ++l) best[l] = values[l];
  for (std::uint32_t i = kLanes; i < count; i += kLanes) {
    for (std::uint32_t l = 0; l < kLanes; ++l) best[l] = best[l] > values[i + l] ? best[l] : values[i + l];
  }
  return *std::max_element(best.begin(), best.end());
}

}  // namespace

double exact_operations(std::uint64_t points, std::uint32_t clusters) {
  return static_cast<double>(clusters) * static_cast<double>(points) *
         static_cast<double>(std::bit_width(std::max<std::uint64_t>(points, 1)));
}

// Squared error of a cluster = (sum w x^2) - (sum w x)^2 / sum w. The first terms add up to a constant, so the best
// partition is the one with the largest sum of second terms: positive numbers, added without cancellation.
Partitioner::Best Partitioner::best_start(const Points& points, std::uint32_t end, std::uint32_t low,
                                          std::uint32_t high) const {
  std::array<double, kChunk> gains;
  const double* weight = points.weight.data();
  const double* moment = points.moment.data();
  const double* before = gain_.data();
  const double end_weight = weight[end], end_moment = moment[end];
  Best best{low, -std::numeric_limits<double>::infinity()};
  for (std::uint32_t first = low; first <= high; first += kChunk) {
    const std::uint32_t count = std::min(kChunk, high - first + 1);
    for (std::uint32_t i = 0; i < count; ++i) {
      const double part = end_moment - moment[first + i];
      gains[i] = before[first + i] + part * part / (end_weight - weight[first + i]);
    }
    const std::uint32_t filled = (count + kLanes - 1) / kLanes * kLanes;
    for (std::uint32_t i = count; i < filled; ++i) gains[i] = gains[0];
    const double top = largest(gains.data(), filled);
    if (!(top > best.gain)) continue;
    const auto at = std::find(gains.begin(), gains.begin() + count, top) - gains.begin();
    best = {first + static_cast<std::uint32_t>(at), top};
  }
  return best;
}

// next_ and starts for ends first..last, whose last clusters begin at low..high: the best begin never falls as the end
// grows, so the middle end divides the choice for the others.
void Partitioner::fill(const Points& points, std::uint32_t first, std::uint32_t last, std::uint32_t low,
                       std::uint32_t high, std::uint32_t* starts) {
  while (first <= last) {
    const std::uint32_t middle = first + (last - first) / 2;
    const Best best = best_start(points, middle, low, std::min(high, middle - 1));
    next_[middle] = best.gain;
    starts[middle] = best.at;
    if (middle > first) fill(points, first, middle - 1, low, best.at, starts);
    first = middle + 1;
    low = best.at;
  }
}

const std::vector<std::uint64_t>& Partitioner::exact(const Points& points, std::uint32_t clusters) {
  const auto count = static_cast<std::uint32_t>(points.size());
  gain_.assign(count + 1, -std::numeric_limits<double>::infinity());
  next_ = gain_;
  starts_.resize(std::size_t{clusters} * (count + 1));
  for (std::uint32_t end = 1; end <= count; ++end) {
    gain_[end] = points.moment[end] * points.moment[end] / points.weight[end];
  }
  for (std::uint32_t c = 1; c < clusters; ++c) {
    // The other clusters need a point each, on either side; the last layer is wanted at its end alone.
    const std::uint32_t last = count - (clusters - 1 - c);
    const std::uint32_t first = c + 1 == clusters ? count : c + 1;
    fill(points, first, last, c, last - 1, starts_.data() + std::size_t{c} * (count + 1));
    std::swap(gain_, next_);
  }
  cuts_.assign(clusters + 1, 0);
  cuts_[clusters] = count;
  for (std::uint32_t c = clusters; c-- > 1;) cuts_[c] = starts_[std::size_t{c} * (count + 1) + cuts_[c + 1]];
  return cuts_;
}

// Starts where the density of good codebooks does: at equal parts of the cube root of the points' density (Panter and
// Dite 1951), that is, of weight^(1/3) * distance^(2/3).
const std::vector<std::uint64_t>& Partitioner::lloyd(const Points& points, std::uint32_t clusters) {
  const std::uint64_t count = points.size();
  next_.assign(count + 1, 0.0);
  for (std::uint64_t i = 0; i < count; ++i) {
    const double left = points.values[i > 0 ? i - 1 : i], right = points.values[i + 1 < count ? i + 1 : i];
    next_[i + 1] =
        next_[i] + std::cbrt(points.weight[i + 1] - points.weight[i]) * std::cbrt((right - left) * (right - left));
  }
  cuts_.assign(clusters + 1, 0);
  cuts_[clusters] = count;
  for (std::uint32_t c = 1; c < clusters; ++c) {
    const double wanted = next_[count] * c / clusters;
    const auto at = static_cast<std::uint64_t>(std::lower_bound(next_.begin(), next_.end(), wanted) - next_.begin());
    cuts_[c] = std::clamp<std::uint64_t>(at, cuts_[c - 1] + 1, count - (clusters - c));
  }
  for (int round = 0; round < kLloydRounds; ++round) {
    bool changed = false;
    double left = points.mean(cuts_[0], cuts_[1]);
    for (std::uint32_t c = 1; c < clusters; ++c) {
      const double right = points.mean(cuts_[c], cuts_[c + 1]);  // both by the cuts of the round before
      const double middle = (left + right) / 2;
      const auto at = std::upper_bound(points.values.begin(), points.values.end(), middle) - points.values.begin();
      // No cluster may lose its last point.
      const auto cut = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(at), cuts_[c - 1] + 1, cuts_[c + 1] - 1);
      changed = changed || cut != cuts_[c];
      cuts_[c] = cut;
      left = right;
    }
    if (!changed) break;
  }
  return cuts_;
}

}  // namespace quant::kmeans
