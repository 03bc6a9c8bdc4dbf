// Cuts sorted points into clusters.
#pragma once

#include <cstdint>
#include <vector>

#include "kmeans/points.h"

namespace quant::kmeans {

/// Operations that the exact partition takes, about.
double exact_operations(std::uint64_t points, std::uint32_t clusters);

/// Finds ends of clusters: cluster c is points [cuts[c], cuts[c + 1]), cuts[0] = 0, the last is points.size().
/// Objects keep their memory and serve one thread.
class Partitioner {
 public:
  /// The partition into `clusters` parts of least weighted squared error; 1 <= clusters <= points.size().
  const std::vector<std::uint64_t>& exact(const Points& points, std::uint32_t clusters);
  /// A partition that Lloyd's iteration does not change any more (or after 200 rounds).
  const std::vector<std::uint64_t>& lloyd(const Points& points, std::uint32_t clusters);

 private:
  struct Best {
    std::uint32_t at;
    double gain;
  };
  Best best_start(const Points& points, std::uint32_t end, std::uint32_t low, std::uint32_t high) const;
  void fill(const Points& points, std::uint32_t first, std::uint32_t last, std::uint32_t low, std::uint32_t high,
            std::uint32_t* starts);

  std::vector<double> gain_, next_;
  std::vector<std::uint32_t> starts_;
  std::vector<std::uint64_t> cuts_;
};

}  // namespace quant::kmeans
