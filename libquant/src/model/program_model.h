// A model's settings as its blocks need them: the family table and config.json joined.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/family_config.h"
#include "model/program_builder.h"
#include "model/program_tensors.h"

namespace quant {

struct ProgramModel {
  ProgramModel(const Family& family, const LogicalTensors& all);

  const Family& family;
  FamilyConfig config;
  ProgramTensors tensors;
  std::string prefix;  ///< "model."
  std::uint64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, vocabulary = 0;
  std::uint64_t embedding_width = 0;
  float epsilon = 0;
  Activation activation = Activation::silu;
  bool norm_first = true, parallel = false, affine = true;

  /// The module's full name: of the model, or of block `layer`.
  std::string module(std::string_view name) const { return prefix + std::string(name); }
  std::string module(std::uint64_t layer, std::string_view name) const {
    return block(layer) + "." + std::string(name);
  }
  std::string block(std::uint64_t layer) const {
    return prefix + std::string(family.names.layers) + "." + std::to_string(layer);
  }

  /// A linear of [rows, cols]. The setting `bias_key` decides about its bias; where config.json is silent, the family's
  /// `has_bias`, or else whether the checkpoint has one.
  LinearWeight linear(const std::string& module, std::uint64_t rows, std::uint64_t cols, std::string_view bias_key,
                      bool has_bias) const;
  /// The norm `module` of `width` columns per group.
  NormOp norm(ValueId in, const std::string& module, std::uint64_t width) const;

 private:
  void read_sizes();
  void find_prefix();
};

/// What a block's rows of Windows and layer_types mean for one layer.
struct LayerType {
  std::string name = "full_attention";
  std::uint64_t window = 0;
};
LayerType layer_type(const ProgramModel& model, std::uint64_t layer);
Activation activation_named(const std::string& name, const ProgramModel& model);

Program build_embeddings(const ProgramModel& model);
Program build_block(const ProgramModel& model, std::uint64_t layer);
Program build_head(const ProgramModel& model);

/// Mixture of experts: whether layer has one, and its operations from the normalized input on.
bool has_experts(const ProgramModel& model, std::uint64_t layer);
ValueId add_experts(ProgramBuilder& builder, const ProgramModel& model, std::uint64_t layer, ValueId in);

}  // namespace quant
