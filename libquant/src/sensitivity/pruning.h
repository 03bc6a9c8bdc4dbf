// A linear's weight as a sparsifier leaves it, without writing anything.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plan/algorithm_set.h"
#include "quant/plan.h"
#include "sensitivity/model_chain.h"

namespace quant::sensitivity {

/// The pattern that a candidate's short name stands for: "S50" is 50 % of the weights, "S2:4" two kept of each four.
/// Nothing for names of schemes.
std::optional<SparsityPattern> candidate_pattern(std::string_view name);

/// What is known of the inputs of the linear operation `op`, where the values of `chain` stand: of all rows together,
/// for experts too.
InputStatistics inputs_of(const ModelChain& chain, std::size_t op, const CalibrationNeeds& needs, ProductType product,
                          int threads);

/// Prunes with the recipe's own sparsifier, else by Wanda's scores.
class WeightPruner {
 public:
  WeightPruner(const Plan& plan, int threads);

  /// Of the sparsifier of a linear; streams of another model are not there.
  CalibrationNeeds needs(const PlannedLinear& linear) const;
  /// Why a linear cannot have a pattern, or nothing.
  std::optional<std::string> unsupported(const PlannedLinear& linear, const SparsityPattern& pattern) const;
  /// Weights that are kept, if that is known beforehand.
  std::optional<std::uint64_t> kept(const PlannedLinear& linear, const SparsityPattern& pattern) const;
  std::vector<float> pruned(const PlannedLinear& linear, const SparsityPattern& pattern, std::vector<float> weight,
                            const InputStatistics& inputs) const;

 private:
  const Sparsifier& sparsifier_of(const PlannedLinear& linear) const;

  std::vector<ModifierAlgorithm> algorithms_;
  std::unique_ptr<Algorithm> own_;
  const Sparsifier* default_ = nullptr;
  int threads_ = 1;
};

}  // namespace quant::sensitivity
