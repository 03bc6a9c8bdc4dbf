// Which groups a smoothing modifier takes: by the kind of the producer, by its mappings and its ignore list.
#pragma once

#include <string>
#include <vector>

#include "quant/calibrated.h"
#include "quant/names.h"
#include "quant/registry.h"

namespace quant::smoothing {

/// Immutable.
class GroupFilter {
 public:
  /// Reads the parameters "mappings" ([[balance layers], smooth layer] or {smooth_layer, balance_layers}), "producers"
  /// (kinds, or "all") and "ignore". Without mappings the structure of the model decides: every group whose producer
  /// is of one of the kinds. Throws Error{recipe} that begins with the parameter's name.
  GroupFilter(const Parameters& parameters, const std::string& default_producers);

  /// False for a group without a quantized reader, for one whose smooth layer or whose readers are all ignored, and for
  /// one that neither mappings nor, where there are none, the kind names.
  bool wants(const SmoothingGroup& group) const;

 private:
  struct Mapping {
    NamePattern smooth;
    std::vector<NamePattern> balance;
  };
  static Mapping read_mapping(const void* json, const std::string& field);
  bool mapped(const SmoothingGroup& group) const;
  bool ignored(const SmoothingGroup& group) const;

  std::vector<Mapping> mappings_;
  std::vector<NamePattern> ignore_;
  std::vector<ProducerKind> kinds_;
};

/// "norm", "value", "gated_product", "relu", "linear".
std::string producer_name(ProducerKind kind);

/// The parameters that GroupFilter reads, for a modifier's registration.
std::vector<ParameterSpec> group_filter_parameters(const std::string& default_producers);

}  // namespace quant::smoothing
