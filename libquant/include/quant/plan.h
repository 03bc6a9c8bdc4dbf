// What a recipe will do to a model, decided before any weight is read.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/layout.h"
#include "quant/model.h"
#include "quant/recipe.h"
#include "quant/registry.h"

namespace quant {

struct PlanOptions {
  std::string layout = "compressed-tensors";
  std::string container = "safetensors";
  std::uint64_t shard_bytes = 5'000'000'000;  ///< largest size of an output file (a single larger tensor gets its own)
  std::uint64_t memory_bytes = 0;             ///< 0: no limit given
  int threads = 0;                            ///< 0: all processors
};

/// A linear that will be quantized.
struct PlannedLinear {
  LinearShape shape;
  const TensorInfo* weight = nullptr;
  std::size_t modifier = 0;  ///< index into Recipe::modifiers
  std::size_t scheme = 0;    ///< index into Plan::groups
  std::string rule;          ///< the target that chose it: "Linear", "re:.*down_proj"
  int fused_set = -1;        ///< linears of one set share their NVFP4 global scale (q,k,v; gate,up); -1: none
  std::vector<StoredTensor> stored;
  std::uint64_t stored_bytes = 0;
  double bits_per_weight = 0;  ///< 8 * stored_bytes / weights
};

/// A tensor that is copied unchanged.
struct PlannedCopy {
  const TensorInfo* tensor = nullptr;  ///< null for a tied lm_head, which has no tensor of its own
  std::string module;                  ///< empty if the tensor is no module's weight
  std::string reason;                  ///< "ignored by 'lm_head'", "no target matches", "a bias", ...
};

/// One linear or one copied tensor within an output file.
struct PlannedItem {
  bool quantized = false;
  std::size_t index = 0;            ///< into Plan::linears or Plan::copies
  std::vector<std::size_t> places;  ///< where each of its stored tensors stands in PlannedShard::tensors
};

/// One output file.
struct PlannedShard {
  std::string file;
  std::vector<StoredTensor> tensors;  ///< in storage order: larger element types first, so that all are aligned
  std::vector<PlannedItem> items;     ///< in model order
  std::uint64_t file_bytes = 0;
};

struct Plan {
  Recipe recipe;
  PlanOptions options;
  const Checkpoint* checkpoint = nullptr;
  const Registry* registry = nullptr;
  const Layout* layout = nullptr;

  std::vector<SchemeGroup> groups;
  std::vector<PlannedLinear> linears;
  std::vector<PlannedCopy> copies;
  std::vector<std::string> ignored_modules;  ///< modules of targeted classes left unquantized, for config.json
  std::vector<PlannedShard> shards;
  std::vector<std::pair<std::string, std::string>> metadata;  ///< of every output file
  std::string config_json;
  std::string index_json;  ///< empty for a single file

  std::vector<std::string> problems;  ///< why it cannot run; all of them
  std::vector<std::string> warnings;  ///< e.g. a target that matches nothing; errors with --strict

  std::uint64_t bytes_before = 0;       ///< tensor bytes of the checkpoint
  std::uint64_t bytes_after = 0;        ///< tensor bytes of the output
  std::uint64_t output_bytes = 0;       ///< all files that loading the output needs; report and recipe not counted
  double bits_per_weight = 0;           ///< of all quantized linears together
  double model_bits_per_parameter = 0;  ///< of the whole model
  std::uint64_t peak_memory = 0;        ///< resident bytes, mapped file pages aside
  double seconds_estimate = 0;          ///< from a measurement of a few milliseconds on random weights
  std::uint64_t slice_weights = 0;      ///< weights that one thread holds at a time
  std::string identity;                 ///< hash of everything that decides the output's bytes
};

/// Never throws for what the recipe and the model say: mistakes are in Plan::problems, all at once.
/// `checkpoint` and `registry` must outlive the plan.
Plan make_plan(const Checkpoint& checkpoint, const Recipe& recipe, const Registry& registry,
               const PlanOptions& options);

}  // namespace quant
