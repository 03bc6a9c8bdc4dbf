// Lets a recipe's transforms rescale the channels of one block.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "pipeline/block_stream.h"
#include "pipeline/fold.h"
#include "plan/calibration_work.h"

namespace quant {

/// What transforms need to know of a block.
struct TransformContext {
  const Plan* plan = nullptr;
  const BlockWork* block = nullptr;
  ModelWeights* weights = nullptr;    ///< receive the folded weights
  ModelWeights* reference = nullptr;  ///< likewise, or null
  RunContext run;
};

/// Passes all tokens through the block once, with its float weights, and collects what its sites need.
std::vector<InputStatistics> collect_sites(BlockStream& stream, const TransformContext& context,
                                           const StreamContext& stream_context);

/// Applies every transform to every site that it wants, in the order of the recipe, then of execution. Returns remarks
/// for the report; `changed` receives the tensors that are stored as floats with new values.
std::vector<std::string> transform_block(const TransformContext& context, std::vector<InputStatistics> statistics,
                                         std::set<std::string>& changed);

}  // namespace quant
