#include "smoothing/factor_source.h"

#include <utility>

#include "smoothing/factors_file.h"
#include "smoothing/json_text.h"

namespace quant::smoothing {

FactorSource::FactorSource(const Parameters& parameters, const std::string& default_producers)
    : filter_(parameters, default_producers),
      import_(text_parameter(parameters, "import_factors")),
      export_(text_parameter(parameters, "export_factors")) {}

bool FactorSource::wants(const SmoothingGroup& group) const {
  const bool wanted = filter_.wants(group);
  if (wanted && !import_.empty() && !group.balance.empty()) file_of(group.smooth_layer, group.balance.front().cols);
  return wanted;
}

std::vector<std::filesystem::path> FactorSource::input_files() const {
  return import_.empty() ? std::vector<std::filesystem::path>{} : factor_files(import_);
}

std::optional<std::vector<float>> FactorSource::imported(const SmoothingGroup& group, std::uint64_t cols,
                                                         SolveRecord& record) const {
  if (import_.empty()) return std::nullopt;
  const std::optional<SmoothingFactors>& found = file_of(group.smooth_layer, cols);
  if (!found) return std::nullopt;
  record.notes.push_back("factors imported from " + import_);
  return found->factors;
}

void FactorSource::save(const SmoothingFactors& found) const {
  if (!export_.empty()) export_factors(export_, found);
}

// Entries of a map stay where they are.
const std::optional<SmoothingFactors>& FactorSource::file_of(const std::string& smooth_layer,
                                                             std::uint64_t cols) const {
  const std::lock_guard lock(mutex_);
  const std::pair<std::string, std::uint64_t> key{smooth_layer, cols};
  const auto known = files_.find(key);
  if (known != files_.end()) return known->second;
  return files_.emplace(key, import_factors(import_, smooth_layer, cols)).first->second;
}

}  // namespace quant::smoothing
