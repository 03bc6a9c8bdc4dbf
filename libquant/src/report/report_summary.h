// What the writers of a report share: kinds of modules, totals per kind, the worst layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/report.h"

namespace quant::report {

/// Modules that have the same name but for numbers: every block's "q_proj".
struct Kind {
  std::string path;   ///< name without its numbers: "model.layers.self_attn.q_proj"
  std::string label;  ///< the shortest end of `path` that no other kind has: "q_proj"
  std::size_t layers = 0;
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;
  ErrorSums sums;
  std::size_t worst = 0;  ///< index of the layer with the largest NMSE
};

/// Where a layer stands in the model.
struct Place {
  std::size_t kind = 0;                ///< index into Grouping::kinds
  std::optional<std::uint64_t> block;  ///< the first number in its name
};

struct Grouping {
  std::vector<Kind> kinds;    ///< in order of first appearance
  std::vector<Place> places;  ///< one per layer of the report
};
Grouping group_layers(const RunReport& report);

/// NMSE as a key for ordering: not-a-number counts as the worst.
double badness(const ErrorSums& sums);

/// Indices of the `count` layers with the largest NMSE, worst first, model order among equals. Exact layers (NMSE 0)
/// are left out.
std::vector<std::size_t> worst_layers(const RunReport& report, std::size_t count);

}  // namespace quant::report
