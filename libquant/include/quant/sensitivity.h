// How much each linear suffers from quantization, and which scheme each should get within a size.
// docs/sensitivity.md gives measures, units and costs.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/evaluate.h"
#include "quant/plan.h"

namespace quant {

// --- candidates -----------------------------------------------------------------------------------------------------

/// The schemes that a sensitivity report compares when nothing else is asked for.
inline constexpr std::string_view kDefaultCandidates = "W2G32,W3G128,W4G128,W4G32,W8";

/// A scheme by its short name, made from the one that a recipe gives to a linear:
///   "W3G128"  its weights with 3 bits in groups of 128;  "W8"  with 8 bits per channel (integers both);
///   "S50", "S2:4"  unquantized, with 50 % of the weights set to 0, or with two kept of each four in a row;
///   a preset's name ("FP8_DYNAMIC")  weights and activations of the preset; "base"  the recipe's own.
/// Symmetry, observer and all else stay those of `base` where weights keep their number type; short names get the
/// searched scales of "mse_search" where `base` names no observer. Case does not matter.
/// Throws Error{usage} naming what is wrong.
Scheme candidate_scheme(const Scheme& base, std::string_view name);
/// "W2G32, w4" as {"W2G32", "W4"}. Throws Error{usage} for an empty list, an unknown name, and a name given twice.
std::vector<std::string> parse_candidates(std::string_view list);

// --- measuring ------------------------------------------------------------------------------------------------------

enum class SensitivityMeasure {
  kl,      ///< KL(original || model with this linear quantized) in nats per prediction, for each candidate
  scaled,  ///< KL of one candidate, the others in proportion to their squared output errors
  output   ///< squared relative error of the linear's output; needs no logits
};
std::string_view to_string(SensitivityMeasure measure);  ///< "kl"
/// Throws Error{usage} naming the measures.
SensitivityMeasure parse_measure(std::string_view name);

struct SensitivityOptions {
  SensitivityMeasure measure = SensitivityMeasure::kl;
  std::vector<std::string> candidates;  ///< of parse_candidates
  bool independent = false;             ///< linears that serving engines fuse may get different schemes
  ProductType product = ProductType::f32;
  int threads = 0;           ///< 0: all processors
  std::uint64_t memory = 0;  ///< bytes that weights, states and logits may take; 0: no limit
  /// Called at most ten times a second: operations (multiplications and additions) done and to do.
  std::function<void(double done, double total, const std::string& module)> progress = {};
  const std::atomic<bool>* stop = nullptr;  ///< set to true: ends with Error{interrupted}
};

/// One linear with one candidate.
struct CandidateLoss {
  bool possible = true;     ///< false: this linear cannot have that scheme, and the rest means nothing
  std::string scheme;       ///< describe() of the weights
  std::uint64_t bytes = 0;  ///< of all its stored tensors
  double loss = 0;          ///< by the measure; >= 0
  double error = 0;         ///< its standard error over the sequences; 0: not known
  double output_nmse = 0;   ///< squared error over squared norm of the linear's output; 0 under `kl`
  double weight_nmse = 0;   ///< the same of the weight
};

struct LinearSensitivity {
  std::string module;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  int set = 0;                        ///< linears of a set get the same scheme; numbered from 0 in order
  std::vector<CandidateLoss> losses;  ///< as SensitivityReport::candidates
};

struct SensitivityReport {
  std::string model;
  std::string model_hash;  ///< model_fingerprint of it
  std::string recipe;      ///< name of the recipe whose schemes are varied
  std::string layout;
  SensitivityMeasure measure = SensitivityMeasure::kl;
  bool independent = false;
  ProductType product = ProductType::f32;
  std::string source, hash;  ///< of the token sequences
  std::uint64_t sequences = 0;
  std::uint64_t tokens = 0;
  std::vector<std::string> candidates;
  std::vector<LinearSensitivity> linears;  ///< in the order of the plan
  double seconds = 0;
};

/// What measuring will cost.
struct SensitivityCost {
  std::uint64_t linears = 0;
  std::uint64_t measurements = 0;  ///< passes from a changed linear to the logits (kl, scaled) or through it (output)
  double operations = 0;           ///< multiplications and additions of all products
  std::uint64_t bytes = 0;         ///< memory, mapped file pages aside
  bool resident = true;            ///< false: weights are read again for each measurement
};

/// Losses of the linears that a plan quantizes, one at a time, the rest of the model as it is. `plan` has no problems;
/// its checkpoint is what runs. Weights are rounded by the recipe's own quantizer if it needs no data, else by plain
/// rounding with the same scheme; they are pruned by the recipe's own sparsifier, else by Wanda's scores; inputs stay
/// float. The same bits for any number of threads.
class SensitivityMeter {
 public:
  /// Throws Error{usage} for a plan without linears of the model's program, or a memory limit that is too small;
  /// Error{unsupported} as LanguageModel does, and naming a linear that can have none of the candidates.
  SensitivityMeter(const Plan& plan, const TokenSequences& sequences, const SensitivityOptions& options);
  ~SensitivityMeter();
  SensitivityMeter(const SensitivityMeter&) = delete;
  SensitivityMeter& operator=(const SensitivityMeter&) = delete;

  const SensitivityCost& cost() const;
  /// The report before anything is measured: all losses are 0, all else is there. Tells what a budget must allow.
  const SensitivityReport& unmeasured() const;
  /// Throws Error{numerical} naming all tensors of the model that hold NaN or infinity, or the linear whose rounding
  /// makes logits that are not finite; Error{interrupted}.
  SensitivityReport measure();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// `count` of the sequences at even distances, all if count is 0. Sequences of one token, which predict nothing, are
/// left out.
TokenSequences spread_sequences(const TokenSequences& all, std::uint64_t count);

/// For each module the number of its set: linears that serving engines fuse into one product (q, k and v; gate and up)
/// and all experts of a layer. Numbered from 0 in the order of their first members. `independent`: each its own.
std::vector<int> fused_sets(std::span<const std::string> modules, bool independent);

// --- files ----------------------------------------------------------------------------------------------------------

std::string sensitivity_json(const SensitivityReport& report);
/// Throws Error{corrupt_file} naming `file` and the member that is wrong.
SensitivityReport parse_sensitivity(std::string_view json, const std::string& file);
/// Reads a file of sensitivity_json. Throws Error{io} too.
SensitivityReport read_sensitivity(const std::filesystem::path& file);
/// Checks that a report holds the losses of this plan's linears: the same model, modules, shapes and schemes. Throws
/// Error{usage} naming the first difference.
void check_sensitivity(const SensitivityReport& report, const Plan& plan);

// --- allocation -----------------------------------------------------------------------------------------------------

/// One choice of a set.
struct AllocationOption {
  std::uint64_t bytes = 0;
  double loss = 0;  ///< finite, >= 0
};

/// One option for each set with the least sum of losses among all choices of at most `budget` bytes together, by
/// dynamic programming. Sizes are counted in their greatest common divisor, exactly, unless that makes more than
/// `most_steps` steps: then sizes are rounded up to larger steps. Of equal sums the smaller size wins. A larger budget
/// never has a larger sum. Throws Error{usage} if even the smallest options are larger than the budget.
std::vector<std::size_t> allocate(const std::vector<std::vector<AllocationOption>>& sets, std::uint64_t budget,
                                  std::uint64_t most_steps = 1U << 17U);

/// The candidates of all linears under a budget.
struct Allocation {
  std::vector<std::size_t> choice;  ///< per linear: index into SensitivityReport::candidates
  std::uint64_t bytes = 0;
  std::uint64_t weights = 0;
  double loss = 0;  ///< the sum that was minimized
  double bits_per_weight() const { return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights); }
};
/// `budget`: bytes of all stored tensors of the linears together. A set can have the candidates that all its members
/// can have. Throws Error{usage} naming the smallest possible size.
Allocation allocate_schemes(const SensitivityReport& report, std::uint64_t budget);
/// Bytes of all linears with the smallest candidates, one for each set: no budget below it can be met.
std::uint64_t smallest_allocation(const SensitivityReport& report);
/// Bytes that linears of `weights` weights may take for that many bits per weight, rounded down.
std::uint64_t budget_of_bits(double bits, std::uint64_t weights);

/// The schemes of a recipe that an allocation describes: one per distinct scheme, with the exact names of its linears
/// as targets, called "mixed_0", ... in the order of the plan. `plan`: of the recipe that the report's candidates vary.
std::vector<RecipeScheme> mixed_schemes(const SensitivityReport& report, const Allocation& allocation,
                                        const Plan& plan);

}  // namespace quant
