// What the recipes of all sparsifiers share: how sparse each linear becomes, and in which pattern.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quant/names.h"
#include "quant/registry.h"
#include "quant/sparsify.h"

namespace quant::shared {

/// The words of `mask_structure`.
enum class MaskWords {
  counts,   ///< "0:0" or "N:M", N removed of each M: SparseGPTModifier, WandaPruningModifier
  outlines  ///< also "unstructured", "channel", "filter" and "block_r,c": MagnitudePruningModifier
};

/// The pattern of each linear.
class SparsityRule {
 public:
  /// The same pattern everywhere.
  explicit SparsityRule(const SparsityPattern& pattern) : pattern_(pattern) {}
  /// From the parameters of sparsity_parameters(). Throws Error{usage} that begins with the name of a parameter that is
  /// wrong, or that another one contradicts.
  SparsityRule(const Parameters& parameters, MaskWords words);

  /// Throws Error{usage} if `sparsity` is a list that does not reach the module's layer.
  SparsityPattern pattern(const std::string& module) const;
  /// Sparsifier::corrects_bias.
  bool corrects_bias() const { return corrects_bias_; }

 private:
  void read_shares(const Parameters& parameters);
  void check_share(double share) const;
  double share(const std::string& module) const;

  SparsityPattern pattern_;     // without a share where shares differ
  std::vector<double> layers_;  // of the decoder layers
  std::vector<std::pair<NamePattern, double>> named_;
  bool corrects_bias_ = false;
};

/// The parameters that SparsityRule reads, and preserve_sparsity_mask.
std::vector<ParameterSpec> sparsity_parameters(MaskWords words);

/// Values of parameters, or `otherwise` where they are not given. Throws Error{usage} that begins with the name for a
/// value of another type.
double number_parameter(const Parameters& parameters, const std::string& name, double otherwise);
bool boolean_parameter(const Parameters& parameters, const std::string& name, bool otherwise);
std::uint64_t count_parameter(const Parameters& parameters, const std::string& name, std::uint64_t otherwise);
std::string word_parameter(const Parameters& parameters, const std::string& name, const std::string& otherwise);
/// Throws Error{usage}: "<name> must be <rule>".
void require(bool holds, const std::string& name, const std::string& rule);

}  // namespace quant::shared
