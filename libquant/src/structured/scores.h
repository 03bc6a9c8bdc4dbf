// How much each unit of each axis matters.
#pragma once

#include <functional>
#include <vector>

#include "pipeline/block_stream.h"
#include "quant/structured.h"
#include "structured/axes.h"

namespace quant::structured {

/// Higher is more important. Empty where an axis is not cut, or a layer does not have it.
struct LayerScores {
  std::vector<double> heads, groups;                  ///< by query head; by key/value head
  std::vector<std::vector<std::vector<double>>> ffn;  ///< as LayerUnits::ffn
  std::vector<double> experts;
  double layer = 0;
};
struct Scores {
  std::vector<double> hidden;
  std::vector<LayerScores> of_layer;
};

/// What has to be scored.
struct ScoreRequest {
  bool heads = false, ffn = false, hidden = false, layers = false, experts = false;
  UnitImportance units = UnitImportance::magnitude;
  LayerImportance layer = LayerImportance::magnitude;     ///< never automatic
  ExpertImportance expert = ExpertImportance::magnitude;  ///< never automatic
  bool needs_weights() const;
  bool needs_data() const;
};

/// `weights`: of the unpruned model. `context`: null if the request needs no data. `begin_block`: called before each
/// block. Throws Error{numerical} naming the block for scores that are no numbers.
Scores score_units(const ModelAxes& axes, const ModelProgram& program, const ModelWeights& weights,
                   const ScoreRequest& request, int threads, const StreamContext* context,
                   const std::function<void(std::size_t block)>& begin_block);

/// The `count` units with the highest scores, ascending by number; among equals the lower number.
Units best_units(const std::vector<double>& scores, std::uint64_t count);

}  // namespace quant::structured
