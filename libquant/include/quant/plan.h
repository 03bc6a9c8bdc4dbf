// What a recipe will do to a model, decided before any weight is read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/calibration_data.h"
#include "quant/checkpoint.h"
#include "quant/error.h"
#include "quant/layout.h"
#include "quant/linalg.h"
#include "quant/model.h"
#include "quant/recipe.h"
#include "quant/registry.h"
#include "quant/sparsify.h"

namespace quant {

/// What algorithms that look at activations learn from, and how. Ignored by recipes that need no data.
struct CalibrationRequest {
  std::filesystem::path file;             ///< empty: none given
  CalibrationOptions data;                ///< how sequences are made of it
  bool all_experts = false;               ///< every expert sees every token
  std::optional<ProductType> product;     ///< operands of big products; null: the fastest
  std::uint64_t activation_bytes = 0;     ///< activations held in memory, the rest goes to disk; 0: chosen by the plan
  std::filesystem::path statistics = {};  ///< a file of statistics to use in the place of `file`; empty: none
  std::filesystem::path save_statistics = {};  ///< where the statistics of the pass go; empty: nowhere
  /// Linears learn from the inputs that the unquantized model gives them: no linear sees what the coding of earlier
  /// ones did. What is learnt then does not depend on the recipe, and one pass serves many (save_statistics,
  /// statistics).
  bool unquantized_inputs = false;
  bool block_errors = false;  ///< the unquantized model runs beside, so that BlockReport::output is known of any recipe
};

/// Stands for the first layout, in the order of the registry, that can hold every linear of the plan.
inline constexpr std::string_view kAutomaticLayout = "auto";

struct PlanOptions {
  std::string layout = "compressed-tensors";  ///< or kAutomaticLayout; Plan::options has what was chosen
  std::string container = "safetensors";
  std::uint64_t shard_bytes = 5'000'000'000;  ///< largest size of an output file (a single larger tensor gets its own)
  std::uint64_t memory_bytes = 0;             ///< 0: no limit given
  int threads = 0;                            ///< 0: all processors
  CalibrationRequest calibration;
  /// How much the error of each weight counts: tensors named as the weights, of the same shape or [columns], of any
  /// floating type, with numbers from 0 up. Must outlive the plan. Null: none; all count the same, or as the recipe
  /// says.
  const Checkpoint* sensitivities = nullptr;
};

/// What one modifier removes of a linear's weights.
struct PlannedPruning {
  std::size_t modifier = 0;  ///< index into Recipe::modifiers
  std::string rule;          ///< the target that chose it
  SparsityPattern pattern;
};

/// A linear that will be quantized, pruned, or both.
struct PlannedLinear {
  LinearShape shape;
  const TensorInfo* weight = nullptr;
  const TensorInfo* sensitivity = nullptr;  ///< in PlanOptions::sensitivities; null: not used
  std::size_t modifier = 0;  ///< that quantizes it, or else the last that prunes it: index into Recipe::modifiers
  std::size_t scheme = 0;    ///< index into Plan::groups
  std::string rule;          ///< the target that chose it: "Linear", "re:.*down_proj"
  std::vector<PlannedPruning> pruning;  ///< in the order of the recipe, before anything is coded
  int fused_set = -1;  ///< linears of one set share their NVFP4 global scale (q,k,v; gate,up); -1: none
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

/// The static scales of the keys and values that one attention module caches; calibration finds them.
struct PlannedCache {
  std::string module;  ///< "model.layers.0.self_attn"
  QuantArgs args;
  std::vector<StoredTensor> stored;  ///< the scale of keys, then of values: one number each
};

/// One linear, one copied tensor, or the scales of one cache within an output file.
struct PlannedItem {
  bool quantized = false;
  bool cache = false;               ///< not quantized: `index` is into Plan::caches
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

/// What the pass over the calibration data does and costs. Operations are multiplications and additions.
struct CalibrationPlan {
  std::string family;        ///< of the model's program: "llama"
  std::size_t blocks = 0;    ///< decoder layers
  std::string source, hash;  ///< of the token sequences (see TokenSequences)
  std::uint64_t sequences = 0;
  std::uint64_t tokens = 0;
  std::uint64_t longest = 0;  ///< tokens of the longest sequence
  ProductType product = ProductType::f32;
  bool second_stream = false;          ///< the unquantized model runs beside the quantized one
  std::uint64_t chunk_tokens = 0;      ///< tokens that go through the model together
  std::uint64_t activation_bytes = 0;  ///< activations held in memory at most
  std::uint64_t statistics_bytes = 0;  ///< statistics collected in one sweep at most (more if one input needs more)
  std::uint64_t disk_bytes = 0;        ///< temporary files in the partial directory at most
  bool imported = false;               ///< statistics come from the file `source`; nothing runs but the solvers
  std::string data, data_hash, statistics_tool;  ///< with it: what the file says of its origin; may be empty
  double product_operations = 0;                 ///< of linears and attention
  double gram_operations = 0;
  double solve_operations = 0;  ///< an estimate: two operations per weight and column
  double total_operations() const { return product_operations + gram_operations + solve_operations; }
};

/// What the pipeline has worked out for a calibrated plan (internal).
struct CalibrationWork;

struct Plan {
  Recipe recipe;
  PlanOptions options;
  const Checkpoint* checkpoint = nullptr;
  const Registry* registry = nullptr;
  const Layout* layout = nullptr;

  std::vector<SchemeGroup> groups;
  std::vector<PlannedLinear> linears;
  std::vector<PlannedCopy> copies;
  std::vector<PlannedCache> caches;          ///< of recipes with a kv_cache_scheme
  std::vector<std::string> ignored_modules;  ///< modules of targeted classes left unquantized, for config.json
  std::vector<PlannedShard> shards;
  std::vector<std::pair<std::string, std::string>> metadata;  ///< of every output file
  std::string config_json;
  std::string index_json;  ///< empty for a single file

  std::vector<std::string> problems;  ///< why it cannot run; all of them
  /// How many of `problems` are about calibration data, statistics or memory, rather than about recipe and model.
  std::size_t input_problems = 0;
  std::shared_ptr<const Error> input_error;  ///< what data or statistics could not be read for, if that is a problem
  std::vector<std::string> warnings;         ///< e.g. a target that matches nothing; errors with --strict

  std::uint64_t bytes_before = 0;       ///< tensor bytes of the checkpoint
  std::uint64_t bytes_after = 0;        ///< tensor bytes of the output
  std::uint64_t output_bytes = 0;       ///< all files of the output; report and recipe not counted
  std::uint64_t loading_bytes = 0;      ///< those that loading needs: without the model's readme, texts, licence, ...
  double bits_per_weight = 0;           ///< of all quantized linears together
  double model_bits_per_parameter = 0;  ///< of the whole model
  std::uint64_t peak_memory = 0;        ///< resident bytes, mapped file pages aside
  double seconds_estimate = 0;          ///< from a measurement of a few milliseconds on random weights
  std::uint64_t slice_weights = 0;      ///< weights that one thread holds at a time
  std::string identity;                 ///< hash of everything that decides the output's bytes

  std::optional<CalibrationPlan> calibration;   ///< of recipes that need data, once it could be made
  std::shared_ptr<const CalibrationWork> work;  ///< with it
};

/// Never throws for what the recipe and the model say: mistakes are in Plan::problems, all at once.
/// `checkpoint` and `registry` must outlive the plan.
Plan make_plan(const Checkpoint& checkpoint, const Recipe& recipe, const Registry& registry,
               const PlanOptions& options);

}  // namespace quant
