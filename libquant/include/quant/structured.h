// Structured pruning: a smaller dense model from a float checkpoint. Heads, channels, layers and experts are removed
// whole, config.json says the new sizes, and what read the removed channels can make up for them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quant/algorithm.h"
#include "quant/pipeline.h"
#include "quant/plan.h"
#include "quant/recipe.h"
#include "quant/report.h"

namespace quant {

/// How much of an axis is removed: a fraction below 1 of its units, or a number of units.
struct CutAmount {
  double value = 0;  ///< 0: nothing; below 1: that fraction, rounded down; from 1 on: that many units
  bool any() const { return value > 0; }
  /// Units of `total` that are removed.
  std::uint64_t of(std::uint64_t total) const;
};

/// How the units of an axis are ranked; the lowest are removed.
enum class UnitImportance {
  magnitude,   ///< L2 norm of all weights that belong to the unit; needs no data
  activation,  ///< Minitron (arXiv 2407.14679): over sequences b, sqrt(sum_b (mean over tokens of |a|)^2)
  flap         ///< FLAP (arXiv 2312.11983): variance of the channel's values times the squared norm of its readers
};
enum class LayerImportance {
  automatic,  ///< magnitude if the units are ranked by it, else cosine
  magnitude,  ///< L2 norm of the weights that write to the residual stream
  cosine      ///< mean over tokens of 1 - cos(input of the layer, its output) (arXiv 2403.03853)
};
enum class ExpertImportance {
  automatic,  ///< magnitude if the units are ranked by it, else router
  magnitude,  ///< L2 norm of the expert's weights
  norm,       ///< mean over its tokens of ||output|| (Minitron)
  router      ///< mean over its tokens of gate * ||output|| (REAP, arXiv 2510.13999)
};
enum class HeadUnit {
  automatic,  ///< query where that removes at least one head of each group, else group
  query,      ///< query heads, the same number in every group; keys and values stay
  group       ///< a key/value head with all its query heads
};
/// What the linears that read removed heads or FFN channels do about them.
enum class Compensation {
  none,
  bias,          ///< the mean of what is missing goes into the bias (FLAP); linears without one stay as they are
  least_squares  ///< the kept columns and the bias, if there is one, are fitted again: W H[:,S] H[S,S]^-1
};
/// What least squares fit.
enum class CompensationTarget {
  block,  ///< what the linear would compute without the cut, from the inputs that it gets in the smaller model
  model   ///< the same in the unpruned model, which runs beside; what the residual stream lacks is made up for, too
};

struct StructuredOptions {
  CutAmount heads;  ///< of the query heads
  HeadUnit head_unit = HeadUnit::automatic;
  CutAmount ffn;      ///< of every MLP's channels, ranked in each layer (and expert) alone
  CutAmount hidden;   ///< of the residual stream's channels, one set for the whole model
  CutAmount layers;   ///< of the decoder layers
  CutAmount experts;  ///< of the experts of each layer
  /// What is kept of the axis is rounded up to a multiple; 0: the largest power of two that is at most 128 and a
  /// sixteenth of the width (experts: 1).
  std::uint64_t ffn_divisor = 0, hidden_divisor = 0, expert_divisor = 1;
  UnitImportance importance = UnitImportance::magnitude;
  LayerImportance layer_importance = LayerImportance::automatic;
  ExpertImportance expert_importance = ExpertImportance::automatic;
  Compensation compensation = Compensation::none;
  CompensationTarget target = CompensationTarget::model;
  double damping = 0.01;  ///< of least squares: pull towards the old weights, as a fraction of the mean of H's diagonal
  bool add_bias = false;  ///< gives biases to compensated linears where config.json can say that they have one
  /// Decoder layers ("model.layers.0") of these names are not removed. A name of what another axis cuts is a problem:
  /// layers would get different shapes, which no known config.json can say.
  std::vector<Pattern> ignore;
  std::string report_path;  ///< where to put a copy of structure.json; empty: nowhere
};

/// An algorithm that changes the shapes of a model. It stands alone in its recipe.
class Restructurer : public Algorithm {
 public:
  Role role() const final { return Role::restructure; }
  std::optional<std::string> unsupported(const QuantArgs& /*weights*/) const final { return std::nullopt; }
  virtual const StructuredOptions& options() const = 0;
};

/// One axis of the model and what becomes of it.
struct StructuredAxis {
  std::string name;  ///< "heads", "kv_heads", "ffn", "hidden", "layers", "experts"
  std::string key;   ///< of config.json: "intermediate_size"
  std::uint64_t before = 0, after = 0;
  std::uint64_t divisor = 1;
};
/// Tensors of one kind in all layers, for a glance at the new shapes.
struct StructuredTensor {
  std::string name;  ///< "model.layers.*.mlp.up_proj.weight"
  std::uint64_t count = 0;
  Shape before, after;
};

namespace structured {
struct Work;
}

struct StructuredPlan {
  StructuredOptions options;
  Recipe recipe;
  PlanOptions resources;  ///< container, shard_bytes, memory_bytes, threads and calibration count
  const Checkpoint* checkpoint = nullptr;
  const Registry* registry = nullptr;

  std::string family;
  std::vector<StructuredAxis> axes;          ///< those that are cut
  std::vector<StructuredTensor> tensors;     ///< those that change
  std::vector<std::string> problems;         ///< why it cannot run; all of them
  std::shared_ptr<const Error> input_error;  ///< what data could not be read for, if that is a problem
  std::vector<std::string> warnings;
  std::uint64_t parameters_before = 0, parameters_after = 0;
  std::uint64_t bytes_before = 0, bytes_after = 0;  ///< of tensors
  /// Sizes hold whichever units are removed; false where layers differ and the data decides which go.
  bool sizes_exact = true;
  std::uint64_t output_bytes = 0;              ///< of all files; report and recipe not counted
  std::uint64_t peak_memory = 0;               ///< resident bytes, mapped file pages aside
  std::optional<CalibrationPlan> calibration;  ///< where activations are looked at
  std::string config_json;                     ///< as far as it is known: which layers are removed may depend on data
  std::string identity;                        ///< hash of everything that decides the output's bytes

  std::shared_ptr<structured::Work> work;
};

/// Whether a modifier of the recipe changes shapes.
bool is_restructuring(const Recipe& recipe, const Registry& registry);
/// The options of the recipe's one modifier. Throws Error{recipe} naming file and line if there are others beside it.
StructuredOptions structured_options(const Recipe& recipe, const Registry& registry);

/// Never throws for what options and model say: mistakes are in StructuredPlan::problems, all at once. Reads no weight.
/// `checkpoint` and `registry` must outlive the plan.
StructuredPlan plan_structured(const Checkpoint& checkpoint, const Recipe& recipe, const Registry& registry,
                               const StructuredOptions& options, const PlanOptions& resources);

/// Runs a plan without problems (else Error{usage}). Writes into "<output>.partial", which goes away if the run fails,
/// and renames it at the end. There is no journal: `resume` starts over what a killed run left. Beside model, recipe
/// and report lies structure.json: which units of each axis were kept, and their scores (docs/structured-pruning.md).
/// Same bytes for any number of threads.
RunReport run_structured(const StructuredPlan& plan, const RunOptions& options);

}  // namespace quant
