// The calibrated part of a plan in detail: what is collected where, in which order, and which tensors change.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/algorithm_set.h"
#include "plan/smoothing_sites.h"
#include "quant/calibration_data.h"
#include "quant/error.h"
#include "quant/logical_tensors.h"
#include "quant/model_program.h"
#include "quant/plan.h"
#include "quant/statistics_file.h"

namespace quant {

/// A linear of a program that the plan quantizes.
struct WorkLinear {
  LinearPlace place;
  std::size_t linear = 0;     ///< index into Plan::linears
  bool static_input = false;  ///< its inputs' range becomes a stored scale
  /// Index into Plan::copies of its bias, if a sparsifier corrects that.
  std::optional<std::size_t> bias = std::nullopt;
};

/// One distinct input: a value, or an expert's rows of one. Linears that read it share its statistics.
struct InputUnit {
  ValueId value = -1;
  std::size_t op = 0;      ///< a LinearOp that reads it
  int expert = -1;         ///< its rows only; -1: all
  CalibrationNeeds needs;  ///< what is collected
  CalibrationNeeds asked;  ///< what the algorithms and schemes of its linears ask for: all that solvers see
  std::vector<WorkLinear> linears;
  ValueId residual = -1;  ///< what the output of its one linear is added to, if needs.residual
};

/// A place within a program where statistics are collected: values `live` are enough to go on from operation `begin`.
struct Sweep {
  std::size_t begin = 0;
  std::size_t linears = 0;  ///< operations [begin, linears) lead to the inputs of the units
  std::vector<ValueId> live;
  std::vector<InputUnit> units;
};

/// A smoothing site that at least one transform wants.
struct WorkSite {
  SmoothingSite site;
  CalibrationNeeds needs;
  std::vector<std::size_t> modifiers;  ///< whose transforms want it, in order
};

/// One program: the embeddings, a decoder layer, or the head.
struct BlockWork {
  const Program* program = nullptr;
  std::vector<WorkSite> sites;
  std::vector<WorkLinear> plain;     ///< coded before anything runs: no statistics are needed
  std::vector<std::size_t> tables;   ///< embedding tables, indices into Plan::linears: likewise
  std::vector<Sweep> sweeps;         ///< the rest, in order of execution
  std::vector<std::size_t> linears;  ///< indices into Plan::linears of all that this program codes
  std::vector<std::size_t> copies;   ///< indices into Plan::copies of tensors that transforms may change
  std::vector<std::size_t> biases;   ///< likewise of biases, which follow their linears; not among `copies`
  std::vector<std::size_t> caches;   ///< indices into Plan::caches, one per attention operation
  bool last = false;                 ///< nothing after it is needed
  bool whole = false;                ///< its outputs are computed: more follows, or they are measured
};

/// Sequences [first, first + count) of `tokens` tokens go through a program together.
struct TokenChunk {
  std::size_t first = 0;
  std::size_t count = 0;
  std::uint64_t tokens = 0;
};

struct CalibrationWork {
  explicit CalibrationWork(const Checkpoint& checkpoint, const Registry& registry) : tensors(checkpoint, registry) {}

  LogicalTensors tensors;
  ModelProgram program;
  TokenSequences data;
  bool all_experts = false;
  bool second_stream = false;
  bool save_statistics = false;                            ///< more is collected than the algorithms need
  std::uint64_t saved_bytes = 0;                           ///< of the file to save, at most
  std::shared_ptr<const StatisticsFileReader> statistics;  ///< in the place of `data`; else null
  std::vector<TokenChunk> chunks;
  std::vector<BlockWork> blocks;              ///< embeddings first; the head last, if it has work
  std::vector<ModifierAlgorithm> algorithms;  ///< one per modifier
  std::vector<bool> linear_is_here;           ///< Plan::linears: coded by a block
  std::vector<bool> copy_is_here;             ///< Plan::copies: written by a block

  explicit CalibrationWork(const CalibrationWork&) = delete;
  CalibrationWork& operator=(const CalibrationWork&) = delete;
};

/// Whether inputs of linears of this scheme have a stored scale that the recipe does not give.
bool needs_input_range(const Scheme& scheme);
/// The scheme with some range of the inputs in place: what layouts are asked about before the range is known.
Scheme with_input_range(const Scheme& scheme);

/// Multiplications and additions of operations [begin, end) for one model and a number of tokens. Products of linears,
/// and attention over sequences of the average length.
double operations_between(const CalibrationWork& work, const Program& program, std::size_t begin, std::size_t end,
                          std::uint64_t tokens);
/// Of the Gram matrices of a unit's inputs.
double gram_operations(const CalibrationWork& work, const Program& program, const InputUnit& unit,
                       std::uint64_t tokens);
/// Of coding a unit's linears, and of measuring their output errors.
double solve_operations(const Plan& plan, const CalibrationWork& work, const InputUnit& unit);
/// Bytes of a unit's statistics once they are collected.
std::uint64_t statistics_bytes(const Program& program, const InputUnit& unit);
/// Bytes of a unit's statistics while they are collected: sums, and rows that wait for their turn.
std::uint64_t collecting_bytes(const Program& program, const InputUnit& unit, ProductType product);

/// What a site collects.
InputUnit unit_of(const WorkSite& site);
/// Without the parts that `parts` does not name.
InputStatistics only(InputStatistics statistics, const CalibrationNeeds& parts);
/// The modules of a unit's linears.
std::vector<std::string> modules_of(const Plan& plan, const InputUnit& unit);

namespace plan_detail {

/// Adds what an error says to the plan's problems, `what` before it.
void add_problem(Plan& plan, const std::string& what, const Error& error);
/// Reads the sequences that the plan asks for, and with a program adds problems for those that do not fit it; false
/// after adding a problem because there are none.
bool read_data(Plan& plan, CalibrationWork& work, bool has_program);
/// Opens the file of statistics that the plan asks for and describes it in the plan; null after adding a problem.
std::shared_ptr<const StatisticsFileReader> open_statistics(Plan& plan, CalibrationPlan& summary);
/// Adds problems for what cannot be done with statistics from a file, and for what the file lacks.
void check_imported(Plan& plan, const CalibrationWork& work, CalibrationPlan& summary);
/// Adds problems for what stands in the way of saving statistics.
void check_saved(Plan& plan, const CalibrationWork& work);

/// The value of the residual stream that the output of the unit's one linear is added to, if it is there before the
/// stage's linears run; where several outputs are added to it at once (parallel branches), the stream without them.
/// Else -1.
ValueId residual_of(const Program& program, const Stage& stage, const InputUnit& unit);
/// Adds warnings for modifiers that compensate errors of the residual stream where branches do not add to it directly.
void warn_of_residual(Plan& plan, const CalibrationWork& work);

/// Whether a transform leaves a module alone: it acts on whole blocks, whatever the modules' classes.
bool is_ignored(const RecipeModifier& modifier, const std::string& module);
/// What the algorithm and the scheme of a linear ask for.
CalibrationNeeds needs_of(const Plan& plan, const CalibrationWork& work, std::size_t linear);
/// Adds warnings for transforms that rescale nothing.
void warn_of_idle_transforms(Plan& plan, const CalibrationWork& work);
/// Transforms rescale within blocks: that a head's inputs are not rescaled must not pass in silence.
void warn_of_head(Plan& plan, const CalibrationWork& work);
/// Adds a problem for linears that learn from inputs which the program never computes.
void require_reach(Plan& plan, const CalibrationWork& work);

/// Whether any modifier or scheme that linears got learns from data.
bool is_calibrated(const Plan& plan, const std::vector<ModifierAlgorithm>& algorithms);
/// Reads the data and works out Plan::calibration and the work behind it; null if something stands in the way, which
/// goes to Plan::problems.
std::shared_ptr<CalibrationWork> plan_calibration(Plan& plan);
/// Divides sequences into chunks of at most `tokens` tokens (or one longer sequence).
std::vector<TokenChunk> divide(const TokenSequences& data, std::uint64_t tokens);
/// Chooses chunks and what is held in memory under the plan's limit; fills operations, memory, disk and time.
void estimate_calibration(Plan& plan, CalibrationWork& work);

}  // namespace plan_detail
}  // namespace quant
