// What can be removed from a program, found from its operations, and what is kept of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/program_model.h"
#include "structured/channel_map.h"

namespace quant::structured {

/// Numbers of units, ascending.
using Units = std::vector<std::uint32_t>;
/// 0 .. count - 1.
Units all_units(std::uint64_t count);

struct AttentionAxis {
  std::size_t op = 0;  ///< the AttentionOp
  ValueId q = -1, k = -1, v = -1, out = -1;
  std::uint64_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0;
  std::size_t reader = 0;  ///< the LinearOp of the output projection
  std::uint64_t group() const { return heads / kv_heads; }
};
/// The inner channels of one MLP, or of the experts of a layer (each has its own channels in the same columns).
struct FfnAxis {
  ValueId value = -1;      ///< what the output projection reads
  std::size_t reader = 0;  ///< the LinearOp of the output projection
  std::uint64_t width = 0;
  std::size_t experts = 1;  ///< weights of `reader`
  std::string key;          ///< of config.json, "a|b"
};
struct ExpertAxis {
  std::size_t route = 0;  ///< the RouteOp
  ValueId logits = -1, routing = -1;
  std::uint64_t count = 0, top_k = 0;
  std::size_t reader = 0;   ///< the LinearOp whose output the CombineOp reads
  std::size_t combine = 0;  ///< the CombineOp
};

/// One program: the embeddings, a decoder layer, or the head.
struct BlockAxes {
  explicit BlockAxes(const Program& source) : program(&source), channels(source) {}

  const Program* program;
  ChannelMap channels;
  std::vector<ValueId> hidden;  ///< values whose columns are the channels of the residual stream
  std::optional<AttentionAxis> attention;
  std::vector<FfnAxis> ffn;
  std::optional<ExpertAxis> experts;
};
/// Throws Error{unsupported} for a program whose parts are not as every known family has them.
BlockAxes find_axes(const Program& program, const ProgramModel& model, ValueId residual);

/// The axes of all programs: embeddings, blocks, head.
struct ModelAxes {
  ModelAxes(const ModelProgram& program, const ProgramModel& model);

  BlockAxes embeddings;
  std::vector<BlockAxes> blocks;
  BlockAxes head;
};

/// What is kept of one decoder layer. Empty lists stand for parts that the layer does not have.
struct LayerUnits {
  Units heads, groups;  ///< query heads; key/value heads
  /// For each of BlockAxes::ffn, for each of its experts.
  std::vector<std::vector<Units>> ffn;
  Units experts;
};
struct KeptUnits {
  Units layers;
  Units hidden;
  std::vector<LayerUnits> of_layer;  ///< of every layer of the original, removed ones too
};
KeptUnits everything(const ModelAxes& axes, const ProgramModel& model);

/// Which columns of a block's values are kept.
class KeptColumns {
 public:
  KeptColumns(const BlockAxes& axes, const Units& hidden, const LayerUnits& units);
  /// Columns of a value, for one expert's rows of it where the value has such.
  Units of(ValueId value, std::size_t expert = 0) const;

 private:
  const BlockAxes& axes_;
  std::vector<bool> removed_;                            // by channel
  std::map<std::size_t, std::vector<bool>> per_expert_;  // likewise, for experts whose channels differ
};

}  // namespace quant::structured
