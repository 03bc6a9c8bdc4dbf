// Measures how much each linear suffers from each candidate.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "evaluate/eval_loop.h"
#include "evaluate/memory_plan.h"
#include "finite_tensors.h"
#include "quant/error.h"
#include "quant/sensitivity.h"
#include "quant/statistics_file.h"
#include "sensitivity/items.h"
#include "sensitivity/model_chain.h"
#include "sensitivity/pruning.h"
#include "sensitivity/rounding.h"

namespace quant {
namespace {

using sensitivity::candidate_pattern;
using sensitivity::Item;
using sensitivity::ModelChain;
using sensitivity::WeightPruner;
using sensitivity::WeightRounder;

using Outputs = std::vector<std::vector<float>>;

/// Which a report's figures in proportion to output errors are scaled by: the errors of 4 bits are large enough to
/// measure and small enough for proportions to hold.
constexpr double kReferenceBits = 4.0;
/// At most so many bytes of the original's logits are kept, or a quarter of the memory.
constexpr std::uint64_t kLogitMemory = 1'000'000'000;

/// Squared error over squared norm, in float64, added in order.
double relative_error(const Outputs& reference, const Outputs& changed) {
  double noise = 0;
  double signal = 0;
  for (std::size_t c = 0; c < reference.size(); ++c) {
    for (std::size_t i = 0; i < reference[c].size(); ++i) {
      const double exact = reference[c][i];
      const double difference = exact - static_cast<double>(changed[c][i]);
      noise += difference * difference;
      signal += exact * exact;
    }
  }
  return noise == 0 ? 0 : noise / signal;
}

std::uint64_t bytes_of(const std::vector<StoredTensor>& tensors) {
  std::uint64_t bytes = 0;
  for (const StoredTensor& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

double bits_of(const LinearSensitivity& linear, std::size_t candidate) {
  return 8.0 * static_cast<double>(linear.losses[candidate].bytes) / static_cast<double>(linear.rows * linear.cols);
}

void check_possible(const LinearSensitivity& linear, const std::string& reason) {
  const bool any = std::any_of(linear.losses.begin(), linear.losses.end(), [](const auto& l) { return l.possible; });
  if (any) return;
  throw Error(ErrorCode::usage, fmt::format("'{}' can have none of the candidate schemes: {}", linear.module, reason),
              "offer other schemes with --schemes, or ignore it in the recipe", "NoCandidate");
}

}  // namespace

struct SensitivityMeter::State {
  State(const Plan& given, const TokenSequences& data, const SensitivityOptions& wanted)
      : plan(given),
        sequences(data),
        options(wanted),
        threads(evaluate::thread_count(wanted.threads)),
        tensors(*given.checkpoint, *given.registry),
        weights(tensors),
        program(build_model_program(tensors)),
        pruner(plan, threads) {
    if (plan.linears.empty()) throw Error(ErrorCode::usage, "the recipe changes no linear of this model");
    if (sequences.sequences.empty()) throw Error(ErrorCode::usage, "there are no token sequences to measure on");
    if (options.candidates.empty()) options.candidates = parse_candidates(kDefaultCandidates);
    if (options.measure != SensitivityMeasure::output) require_head();
    items = sensitivity::find_items(plan, program, options.independent);
    for (const RecipeModifier& modifier : plan.recipe.modifiers) {
      rounders.push_back(modifier.schemes.empty() && modifier.targets.empty()
                             ? nullptr
                             : std::make_unique<WeightRounder>(modifier, *plan.registry, *plan.layout, threads));
    }
    fill_report();
    unmeasured = report;
    estimate();
  }

  void require_head() const {
    const auto& ops = program.head.ops;
    const bool head =
        std::any_of(ops.begin(), ops.end(), [](const Op& op) { return std::holds_alternative<LinearOp>(op); });
    if (program.causal && head) return;
    throw Error(
        ErrorCode::unsupported,
        fmt::format("{} predicts no tokens: there is no divergence to measure", plan.checkpoint->location().string()),
        "measure output errors instead: --measure output", "NoHead");
  }

  /// Everything but the losses.
  void fill_report() {
    report.model = plan.checkpoint->location().string();
    report.model_hash = model_fingerprint(*plan.checkpoint);
    report.recipe = plan.recipe.name;
    report.layout = plan.options.layout;
    report.measure = options.measure;
    report.independent = options.independent;
    report.product = options.product;
    report.source = sequences.source;
    report.hash = sequences.hash;
    report.sequences = sequences.sequences.size();
    report.tokens = sequences.tokens();
    report.candidates = options.candidates;
    std::vector<std::string> modules;
    for (const PlannedLinear& linear : plan.linears) modules.push_back(linear.shape.module);
    const std::vector<int> sets = fused_sets(modules, options.independent);
    for (std::size_t i = 0; i < plan.linears.size(); ++i) add_linear(plan.linears[i], sets[i]);
  }
  void add_linear(const PlannedLinear& planned, int set) {
    LinearSensitivity linear{planned.shape.module, planned.shape.rows, planned.shape.cols, set, {}};
    std::string reason;
    for (const std::string& name : options.candidates) {
      const Scheme scheme = candidate_scheme(plan.groups[planned.scheme].scheme, name);
      CandidateLoss loss;
      loss.scheme = describe(*scheme.weights);
      const auto pattern = pattern_of(planned, name);
      if (pattern) loss.scheme += ", " + describe(*pattern) + " sparse";
      if (const auto why = unsupported(planned, scheme, pattern)) {
        loss.possible = false;
        reason = *why;
      } else {
        loss.bytes = stored_size(planned, scheme, pattern);
      }
      linear.losses.push_back(std::move(loss));
    }
    check_possible(linear, reason);
    report.linears.push_back(std::move(linear));
  }

  /// What a candidate removes: a pattern of its own, or for the recipe's candidate the recipe's.
  std::optional<SparsityPattern> pattern_of(const PlannedLinear& planned, const std::string& name) const {
    if (const auto pattern = candidate_pattern(name)) return pattern;
    if (name == "base" && !planned.pruning.empty()) return planned.pruning.back().pattern;
    return std::nullopt;
  }
  std::optional<std::string> unsupported(const PlannedLinear& planned, const Scheme& scheme,
                                         const std::optional<SparsityPattern>& pattern) const {
    if (pattern) {
      if (auto why = pruner.unsupported(planned, *pattern)) return why;
    }
    if (is_plain(*scheme.weights)) return std::nullopt;
    return rounders[planned.modifier]->unsupported(scheme, planned.shape);
  }
  /// Without zeros where a layout of this build leaves them out: what a pruned weight can take.
  std::uint64_t stored_size(const PlannedLinear& planned, const Scheme& scheme,
                            const std::optional<SparsityPattern>& pattern) const {
    LinearShape shape = planned.shape;
    shape.sparsity.reset();
    const auto kept = pattern ? pruner.kept(planned, *pattern) : std::nullopt;
    if (kept) shape.sparsity = StoredSparsity{*kept, pattern->keep, pattern->of};
    const bool own = plan.layout->omits_zeros() && shape.sparsity.has_value();
    if (own || !is_plain(*scheme.weights)) return bytes_of(plan.layout->stored(scheme, shape));
    for (const auto& layout : plan.registry->layouts()) {
      if (kept && layout->omits_zeros() && !layout->unsupported(scheme, shape)) {
        return bytes_of(layout->stored(scheme, shape));
      }
    }
    return byte_count(shape.dtype, {shape.rows, shape.cols});
  }

  /// Whether an item can have a candidate: all of its linears can.
  bool possible(const Item& item, std::size_t candidate) const {
    return std::all_of(item.linears.begin(), item.linears.end(),
                       [&](std::size_t i) { return report.linears[i].losses[candidate].possible; });
  }
  const Program& part(std::size_t index) const {
    return index < program.blocks.size() ? program.blocks[index] : program.head;
  }
  /// From a changed linear to the logits.
  double divergence_operations(const Item& item) const {
    double operations = sensitivity::operations_from(part(item.part), item.op);
    for (std::size_t next = item.part + 1; next < program.blocks.size(); ++next) {
      operations += sensitivity::operations_from(program.blocks[next], 0);
    }
    if (item.part < program.blocks.size()) operations += sensitivity::operations_from(program.head, 0);
    return operations * static_cast<double>(report.tokens);
  }
  double output_operations(const Item& item) const {
    return sensitivity::operations_of(part(item.part).ops[item.op]) * static_cast<double>(report.tokens);
  }
  std::size_t reference_candidate(const Item& item) const {
    const LinearSensitivity& linear = report.linears[item.linears.front()];
    std::size_t best = options.candidates.size();
    for (std::size_t c = 0; c < options.candidates.size(); ++c) {
      if (!possible(item, c)) continue;
      const auto distance = [&](std::size_t i) { return std::abs(bits_of(linear, i) - kReferenceBits); };
      if (best == options.candidates.size() || distance(c) < distance(best)) best = c;
    }
    return best;
  }

  void estimate() {
    cost.linears = report.linears.size();
    double model = 0;
    for (const Program& block : program.blocks) model += sensitivity::operations_from(block, 0);
    model *= static_cast<double>(report.tokens);
    const bool divergences = options.measure != SensitivityMeasure::output;
    cost.operations = divergences ? 2 * model : model;
    for (const Item& item : items) {
      for (std::size_t c = 0; c < options.candidates.size(); ++c) {
        if (!possible(item, c)) continue;
        const bool by_output = options.measure != SensitivityMeasure::kl;
        ++cost.measurements;
        cost.operations += by_output ? output_operations(item) : divergence_operations(item);
      }
      if (options.measure != SensitivityMeasure::scaled) continue;
      ++cost.measurements;
      cost.operations += divergence_operations(item);
    }
    estimate_memory();
  }
  void estimate_memory() {
    std::uint64_t all = 0, largest = 0, loading = 0, per_token = 0;
    const auto add = [&](const Program& program_part) {
      const evaluate::PartMemory memory = evaluate::memory_of(program_part, options.product);
      all += memory.weights;
      largest = std::max(largest, memory.weights);
      loading = std::max(loading, memory.loading);
      per_token = std::max(per_token, memory.per_token);
    };
    for (const Program& block : program.blocks) add(block);
    const std::uint64_t head = evaluate::memory_of(program.head, options.product).weights;
    const std::uint64_t rows = std::min(report.tokens, evaluate::logit_rows(program.vocabulary));
    // The original's values, those of the changed model, the weight as it was, rounded, and on its way in.
    const std::uint64_t others = 3 * loading + 2 * report.tokens * per_token + 2 * head +
                                 2 * rows * program.vocabulary * sizeof(float) +
                                 report.tokens * program.hidden * sizeof(float);
    cost.resident = options.memory == 0 || all + others <= options.memory;
    cost.bytes = others + (cost.resident ? all : largest);
    if (options.memory != 0 && cost.bytes > options.memory) {
      throw Error(ErrorCode::usage,
                  fmt::format("a memory limit of {:.1f} MB is too small: {:.1f} MB are needed for {} tokens",
                              static_cast<double>(options.memory) / 1e6, static_cast<double>(cost.bytes) / 1e6 + 0.1,
                              report.tokens),
                  "allow more with --memory, or take fewer sequences", "MemoryTooSmall");
    }
    logit_memory = options.memory == 0 ? kLogitMemory : std::min(kLogitMemory, options.memory - cost.bytes);
    const std::uint64_t logits = report.tokens * program.vocabulary * sizeof(float);
    if (options.measure != SensitivityMeasure::output && logits <= logit_memory) cost.bytes += logits;
  }

  /// One reading of the weights beside the many of the measurements, and the message names what is wrong.
  void require_finite() const {
    std::set<std::string> names;
    add_tensors_read(program.embeddings, names);
    for (const Program& block : program.blocks) add_tensors_read(block, names);
    if (options.measure != SensitivityMeasure::output) add_tensors_read(program.head, names);
    ThreadPool pool(threads);
    const std::string text = describe_non_finite(
        *plan.checkpoint, tensors_named(*plan.checkpoint, names), pool, [] {}, options.stop);
    if (!text.empty()) throw Error(ErrorCode::numerical, text, "repair the checkpoint", "WeightsNotFinite");
  }
  void check_stop() const {
    if (options.stop != nullptr && *options.stop)
      throw Error(ErrorCode::interrupted, "the measurement was interrupted");
  }
  void progress(double operations, const std::string& module) {
    done += operations;
    check_stop();
    if (!options.progress) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_progress < std::chrono::milliseconds(100)) return;
    last_progress = now;
    options.progress(std::min(done, cost.operations), cost.operations, module);
  }

  /// Puts rounded weights in the place of the original ones.
  void change(ModelChain& chain, const Item& item, const std::vector<std::vector<float>>& originals,
              const InputStatistics& inputs, std::size_t candidate) {
    for (std::size_t i = 0; i < item.linears.size(); ++i) {
      check_stop();
      const PlannedLinear& planned = plan.linears[item.linears[i]];
      const Scheme scheme = candidate_scheme(plan.groups[planned.scheme].scheme, options.candidates[candidate]);
      const auto pattern = pattern_of(planned, options.candidates[candidate]);
      std::vector<float> values = originals[i];
      if (pattern) values = pruner.pruned(planned, *pattern, std::move(values), inputs);
      ErrorSums sums;
      if (!is_plain(*scheme.weights)) {
        values = rounders[planned.modifier]->rounded(values, scheme, planned.shape, sums);
      }
      if (pattern || is_plain(*scheme.weights)) sums = measure_values(originals[i], values);
      weights.set(*item.weights[i], std::move(values));
      report.linears[item.linears[i]].losses[candidate].weight_nmse = summarize(sums).nmse;
    }
    chain.weights_changed(item.op);
  }
  void restore(ModelChain& chain, const Item& item) {
    for (const LinearWeight* weight : item.weights) weights.drop(weight->tensor);
    chain.weights_changed(item.op);
  }

  void store(const Item& item, std::size_t candidate, double loss, double error, double output_nmse) {
    const auto share = static_cast<double>(item.linears.size());
    for (const std::size_t i : item.linears) {
      CandidateLoss& result = report.linears[i].losses[candidate];
      result.loss = loss / share;
      result.error = error / share;
      result.output_nmse = output_nmse;
    }
  }
  Estimate divergence(ModelChain& chain, const Item& item) {
    const Estimate kl = mean_over_windows(chain.divergence(), chain.predictions());
    if (!std::isfinite(kl.mean)) {
      throw Error(ErrorCode::numerical,
                  fmt::format("the logits are not finite when '{}' is quantized alone",
                              report.linears[item.linears.front()].module),
                  "evaluate the original with 'quant eval' first", "LogitsNotFinite");
    }
    return {kl.mean, std::isnan(kl.error) ? 0 : kl.error};
  }

  /// What sparsifiers want to know of the inputs, if any candidate prunes.
  InputStatistics item_inputs(const ModelChain& chain, const Item& item) const {
    const PlannedLinear& first = plan.linears[item.linears.front()];
    const bool prunes = std::any_of(options.candidates.begin(), options.candidates.end(),
                                    [&](const std::string& name) { return pattern_of(first, name).has_value(); });
    if (!prunes) return {};
    return sensitivity::inputs_of(chain, item.op, pruner.needs(first), options.product, threads);
  }

  void measure_item(ModelChain& chain, const Item& item) {
    const std::string& module = report.linears[item.linears.front()].module;
    std::vector<std::vector<float>> originals;
    for (const LinearWeight* weight : item.weights) originals.push_back(weights.read(*weight, threads));
    const InputStatistics inputs = item_inputs(chain, item);
    const bool by_output = options.measure != SensitivityMeasure::kl;
    const Outputs reference = by_output ? chain.linear_output() : Outputs();
    const std::size_t scale_by =
        options.measure == SensitivityMeasure::scaled ? reference_candidate(item) : options.candidates.size();
    Estimate scale;
    for (std::size_t c = 0; c < options.candidates.size(); ++c) {
      if (!possible(item, c)) continue;
      change(chain, item, originals, inputs, c);
      const double nmse = by_output ? relative_error(reference, chain.linear_output()) : 0;
      if (by_output) progress(output_operations(item), module);
      if (by_output) store(item, c, nmse, 0, nmse);
      if (by_output && c != scale_by) continue;
      const Estimate kl = divergence(chain, item);
      progress(divergence_operations(item), module);
      if (by_output) scale = kl;
      if (!by_output) store(item, c, kl.mean, kl.error, 0);
    }
    restore(chain, item);
    if (scale_by < options.candidates.size()) apply_scale(item, scale_by, scale);
  }
  /// To second order the divergence is proportional to the squared error of the output.
  void apply_scale(const Item& item, std::size_t scale_by, const Estimate& scale) {
    const double reference = report.linears[item.linears.front()].losses[scale_by].output_nmse;
    for (std::size_t c = 0; c < options.candidates.size(); ++c) {
      if (!possible(item, c)) continue;
      const double nmse = report.linears[item.linears.front()].losses[c].output_nmse;
      const double factor = reference > 0 ? nmse / reference : 0;
      store(item, c, scale.mean * factor, scale.error * factor, nmse);
    }
  }

  const Plan& plan;
  const TokenSequences& sequences;
  SensitivityOptions options;
  int threads;
  LogicalTensors tensors;
  ModelWeights weights;
  ModelProgram program;
  std::vector<Item> items;
  std::vector<std::unique_ptr<WeightRounder>> rounders;  // of each modifier
  WeightPruner pruner;
  SensitivityReport unmeasured, report;
  SensitivityCost cost;
  std::uint64_t logit_memory = 0;
  double done = 0;
  std::chrono::steady_clock::time_point last_progress{};
};

SensitivityMeter::SensitivityMeter(const Plan& plan, const TokenSequences& sequences, const SensitivityOptions& options)
    : state_(std::make_unique<State>(plan, sequences, options)) {}
SensitivityMeter::~SensitivityMeter() = default;

const SensitivityCost& SensitivityMeter::cost() const { return state_->cost; }

const SensitivityReport& SensitivityMeter::unmeasured() const { return state_->unmeasured; }

SensitivityReport SensitivityMeter::measure() {
  State& s = *state_;
  const auto start = std::chrono::steady_clock::now();
  s.report = s.unmeasured;
  s.require_finite();
  sensitivity::ChainOptions options;
  options.forward.product = s.options.product;
  options.forward.threads = s.threads;
  options.resident = s.cost.resident;
  options.logits = s.options.measure != SensitivityMeasure::output;
  options.logit_memory = s.logit_memory;
  options.check_stop = [&s] { s.check_stop(); };
  ModelChain chain(s.program, s.weights, s.sequences.sequences, options);
  s.done = 0;
  chain.start();
  for (const Item& item : s.items) {
    chain.advance(item.part, item.op);
    s.measure_item(chain, item);
  }
  s.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return s.report;
}

TokenSequences spread_sequences(const TokenSequences& all, std::uint64_t count) {
  TokenSequences usable = all;
  std::erase_if(usable.sequences, [](const auto& sequence) { return sequence.size() < 2; });
  const std::uint64_t available = usable.sequences.size();
  if (count == 0 || count >= available) return usable;
  TokenSequences chosen = usable;
  chosen.sequences.clear();
  for (std::uint64_t i = 0; i < count; ++i) chosen.sequences.push_back(usable.sequences[i * available / count]);
  return chosen;
}

}  // namespace quant
