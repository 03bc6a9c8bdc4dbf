// Which groups a smoothing modifier takes, and the files of factors that it reads and writes.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "quant/calibrated.h"
#include "quant/registry.h"
#include "quant/smoothing_factors.h"
#include "smoothing/group_filter.h"

namespace quant::smoothing {

/// May be used by several threads. Each file is parsed once.
class FactorSource {
 public:
  /// Reads the parameters of GroupFilter, "import_factors" and "export_factors". Throws Error{recipe}.
  FactorSource(const Parameters& parameters, const std::string& default_producers);

  /// As GroupFilter::wants. Asked before anything runs: a file of factors that cannot be used is found here. Throws as
  /// import_factors.
  bool wants(const SmoothingGroup& group) const;
  /// The files that factors come from.
  std::vector<std::filesystem::path> input_files() const;
  /// The factors of a group with `cols` columns that a file holds, with a note of it; nothing if there is none.
  std::optional<std::vector<float>> imported(const SmoothingGroup& group, std::uint64_t cols,
                                             SolveRecord& record) const;
  /// Writes factors that were found, if the recipe wants that.
  void save(const SmoothingFactors& found) const;

 private:
  const std::optional<SmoothingFactors>& file_of(const std::string& smooth_layer, std::uint64_t cols) const;

  GroupFilter filter_;
  std::string import_, export_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::string, std::uint64_t>, std::optional<SmoothingFactors>> files_;
};

}  // namespace quant::smoothing
