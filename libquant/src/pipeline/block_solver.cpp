#include "pipeline/block_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>

#include "pipeline/block_stream.h"
#include "pipeline/stored_floats.h"
#include "plan/pruning.h"
#include "plan/resources.h"
#include "plan/sensitivities.h"
#include "quant/error.h"
#include "quant/observers.h"
#include "quant/weight_rows.h"
#include "quant/whole_weight.h"

namespace quant {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr std::uint64_t kErrorRows = 512;

std::vector<float> dequantize(const QuantizedTensor& coded, int threads) {
  std::vector<float> values(coded.rows * coded.cols);
  const auto rows = static_cast<std::int64_t>(coded.rows);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::uint64_t>(r);
    dequantize_row(coded, row, std::span(values).subspan(row * coded.cols, coded.cols));
  }
  return values;
}

// <X W^T, X V^T> and the like over all outputs, from H = X^T X / tokens. Rows are summed in order.
OutputErrors output_errors(std::span<const float> weight, std::span<const float> values, std::uint64_t rows,
                           std::span<const float> gram, std::uint64_t cols, int threads) {
  OutputErrors errors;
  std::vector<float> difference;
  for (std::uint64_t first = 0; first < rows; first += kErrorRows) {
    const std::uint64_t count = std::min(kErrorRows, rows - first);
    const auto w = weight.subspan(first * cols, count * cols);
    const auto v = values.subspan(first * cols, count * cols);
    difference.resize(count * cols);
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = w[i] - v[i];
    std::vector<double> form(count);
    const auto sum_of = [&](std::span<const float> d) {
      quadratic_forms(d, count, gram, cols, form, threads);
      double sum = 0;
      for (const double row : form) sum += row;
      return sum;
    };
    errors.signal += sum_of(w);
    errors.recon += sum_of(v);
    errors.noise += sum_of(difference);
  }
  for (double* sum : {&errors.signal, &errors.recon, &errors.noise}) *sum = std::max(*sum, 0.0);
  errors.dot = (errors.signal + errors.recon - errors.noise) / 2;
  return errors;
}

std::vector<float> diagonal(const InputStatistics& inputs) {
  std::vector<float> result;
  // Without tokens all columns would count nothing: then all count the same.
  if (inputs.gram.empty() || inputs.tokens == 0) return result;
  for (std::uint64_t c = 0; c < inputs.cols; ++c) {
    result.push_back(inputs.gram[c * inputs.cols + c]);
  }
  return result;
}

// What several algorithms say about one linear, in turn.
void join(SolveRecord& later, SolveRecord& record) {
  record.damping = std::max(record.damping, later.damping);
  if (!later.fallback.empty()) record.fallback += (record.fallback.empty() ? "" : "; ") + later.fallback;
  std::move(later.notes.begin(), later.notes.end(), std::back_inserter(record.notes));
}

}  // namespace

// One linear on its way: float weights, then codes.
struct BlockSolver::Job {
  const LinearWeight* weight = nullptr;
  std::size_t linear = 0;
  std::vector<float> values;
  std::vector<float> original;     // where several modifiers prune: the weights before the first of them
  std::vector<std::uint8_t> mask;  // of a pruned linear
  std::optional<std::size_t> bias;
  std::vector<float> importance;
  TensorParams params;
  QuantizedTensor coded;
  SolveRecord record;
};

BlockSolver::Job BlockSolver::load(const LinearWeight& weight, std::size_t linear) {
  leave_if_stopped(context_.run.stop);
  context_.begin(weight.module);
  Job job;
  job.weight = &weight;
  job.linear = linear;
  job.values = context_.weights->read(weight, context_.run.threads);
  require_finite(job);
  return job;
}

// Linears that read one input go through each sparsifier together, in the order of the recipe.
void BlockSolver::prune(std::span<Job> jobs, const InputStatistics& inputs) const {
  const auto& algorithms = context_.plan->work->algorithms;
  for (std::size_t m = 0; m < algorithms.size(); ++m) {
    if (algorithms[m].sparsifier == nullptr) continue;
    std::vector<PruneTask> tasks;
    std::vector<Job*> owners;
    for (Job& job : jobs) {
      for (const PlannedPruning& pruning : context_.plan->linears[job.linear].pruning) {
        if (pruning.modifier != m) continue;
        job.mask.resize(job.values.size(), 1);
        if (job.original.empty() && context_.plan->linears[job.linear].pruning.size() > 1) job.original = job.values;
        PruneTask task;
        task.module = job.weight->module;
        task.rows = job.weight->rows;
        task.cols = job.weight->cols;
        task.weight = job.values;
        task.mask = job.mask;
        task.pattern = pruning.pattern;
        task.original = job.original;
        tasks.push_back(std::move(task));
        owners.push_back(&job);
      }
    }
    if (tasks.empty()) continue;
    algorithms[m].sparsifier->prune(tasks, inputs, context_.run);
    for (std::size_t i = 0; i < tasks.size(); ++i) join(tasks[i].record, owners[i]->record);
  }
  for (Job& job : jobs) {
    job.original = std::vector<float>{};
    clamp_pruned(job);
  }
}

// What was refitted may be more than the stored type can hold.
void BlockSolver::clamp_pruned(Job& job) const {
  const PlannedLinear& planned = context_.plan->linears[job.linear];
  const QuantArgs args = weight_args(*context_.plan, planned);
  if (job.mask.empty() || !is_plain(args)) return;
  const DType type = layout_for(*context_.plan, planned).scale_dtype(args, planned.shape.dtype);
  const std::uint64_t count = clamp_to_finite(type, job.values);
  if (count == 0) return;
  job.record.notes.push_back(fmt::format("{} of {} weights were too large for {} and got its largest number", count,
                                         job.values.size(), dtype_name(type)));
}

// What coding needs to know of the weights, which are pruned by now.
void BlockSolver::prepare(Job& job, const InputStatistics& inputs) const {
  const PlannedLinear& planned = context_.plan->linears[job.linear];
  const ModifierAlgorithm& algorithm = context_.plan->work->algorithms[planned.modifier];
  if (planned.sensitivity != nullptr) {
    read_sensitivities(*context_.plan, planned, 0, planned.shape.rows, job.importance);
  } else if (algorithm.quantizer != nullptr && algorithm.own->needs().gram) {
    job.importance = diagonal(inputs);
  }
  job.params = params_of(job);
}

void BlockSolver::require_finite(const Job& job) const {
  const auto bad = find_non_finite(f32_view(job.values, job.weight->rows, job.weight->cols));
  if (!bad) return;
  throw Error(ErrorCode::numerical,
              fmt::format("{} has a weight that is NaN or infinite (row {}, column {}: {})", job.weight->tensor,
                          bad->row, bad->col, bad->value),
              "repair the checkpoint, or add this module to the recipe's 'ignore'");
}

// Values of the whole tensor by the range rule of plain rounding, where the scheme has such.
TensorParams BlockSolver::params_of(const Job& job) const {
  const PlannedLinear& planned = context_.plan->linears[job.linear];
  const QuantArgs args = weight_args(*context_.plan, planned);
  const ModifierAlgorithm& algorithm = context_.plan->work->algorithms[planned.modifier];
  const bool whole = args.strategy == Strategy::tensor || is_nvfp4(args);
  if (!whole || algorithm.quantizer != nullptr) {
    if (algorithm.quantizer == nullptr) return {};
    return algorithm.quantizer->prepare(f32_view(job.values, job.weight->rows, job.weight->cols), args, job.importance,
                                        context_.run.threads);
  }
  const AlgorithmEntry* plain = context_.plan->registry->modifier("QuantizationModifier");
  if (plain == nullptr) return {};
  Parameters defaults;
  for (const ParameterSpec& parameter : plain->parameters) defaults[parameter.name] = parameter.default_value;
  const auto created = plain->create(defaults);
  const auto* quantizer = dynamic_cast<const Quantizer*>(created.get());
  if (quantizer == nullptr) return {};
  return quantizer->prepare(f32_view(job.values, job.weight->rows, job.weight->cols), args, {}, context_.run.threads);
}

// Linears that runtimes fuse have one global scale: that of the largest weight, which is the smallest. Members of a set
// read the same input, and so are in one unit.
void BlockSolver::share_global_scales(std::vector<Job>& jobs) const {
  std::map<int, float> smallest;
  for (const Job& job : jobs) {
    const int set = context_.plan->linears[job.linear].fused_set;
    if (set < 0 || !job.params.global_scale) continue;
    const auto [at, is_new] = smallest.try_emplace(set, *job.params.global_scale);
    if (!is_new) at->second = std::min(at->second, *job.params.global_scale);
  }
  for (Job& job : jobs) {
    const auto found = smallest.find(context_.plan->linears[job.linear].fused_set);
    if (found != smallest.end()) job.params.global_scale = found->second;
  }
}

void BlockSolver::code_plain(const Quantizer& quantizer, Job& job) {
  const PlannedLinear& planned = context_.plan->linears[job.linear];
  const QuantArgs args = weight_args(*context_.plan, planned);
  const DType scale_type = layout_for(*context_.plan, planned).scale_dtype(args, planned.shape.dtype);
  const TensorView view = f32_view(job.values, job.weight->rows, job.weight->cols);
  try {
    job.coded = quantize_slices(quantizer, view, args, scale_type, job.params, job.importance, context_.run.threads);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", job.weight->module, error.what()), error.hint(), error.kind());
  }
}

const Scheme& BlockSolver::scheme_of(const Job& job) const {
  return context_.plan->groups[context_.plan->linears[job.linear].scheme].scheme;
}

// What is stored for inputs whose range was measured.
void BlockSolver::scale_inputs(const InputStatistics& inputs, Job& job) const {
  const QuantArgs& args = *scheme_of(job).input_activations;
  float least = -1.0F;
  float most = 1.0F;
  if (inputs.tokens == 0) {
    job.record.notes.emplace_back("no token reached it: the static scale of its inputs is that of [-1, 1]");
  } else {
    least = *std::min_element(inputs.minimum.begin(), inputs.minimum.end());
    most = *std::max_element(inputs.maximum.begin(), inputs.maximum.end());
  }
  try {
    if (is_nvfp4(args)) {
      job.coded.input_global_scale = static_activation_global_scale(least, most);
      return;
    }
    const DType stored = context_.plan->layout->input_scale_dtype(args, context_.plan->linears[job.linear].shape.dtype);
    const StaticScale scale = static_activation_scale(args, least, most, stored);
    job.coded.input_scale = scale.scale;
    job.coded.input_zero_point = scale.zero_point;
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", job.weight->module, error.what()), error.hint());
  }
}

// As the finished checkpoint will be run: with the scales that are stored.
std::optional<InputQuantizer> BlockSolver::input_quantizer(const Job& job) const {
  if (!scheme_of(job).input_activations) return std::nullopt;
  const QuantArgs& args = *scheme_of(job).input_activations;
  if (args.dynamic == Dynamic::yes) return InputQuantizer{args, 0, 0};
  const bool constant = constant_absmax(args).has_value();
  if (is_nvfp4(args)) {
    return InputQuantizer{args, constant ? static_activation_global_scale(args) : job.coded.input_global_scale, 0};
  }
  if (!constant) return InputQuantizer{args, job.coded.input_scale, static_cast<float>(job.coded.input_zero_point)};
  const DType stored = context_.plan->layout->input_scale_dtype(args, context_.plan->linears[job.linear].shape.dtype);
  return InputQuantizer{args, round_to_dtype(stored, static_activation_scale(args)), 0};
}

void BlockSolver::solve(const Program& program, const InputUnit& unit, const InputStatistics& inputs) {
  std::map<std::size_t, std::vector<const WorkLinear*>> by_modifier;
  for (const WorkLinear& entry : unit.linears) {
    by_modifier[context_.plan->linears[entry.linear].modifier].push_back(&entry);
  }
  for (const auto& [modifier, entries] : by_modifier) {
    const ModifierAlgorithm& algorithm = context_.plan->work->algorithms[modifier];
    std::vector<Job> jobs;
    for (const WorkLinear* entry : entries) {
      jobs.push_back(load(weight_at(program, entry->place), entry->linear));
      jobs.back().bias = entry->bias;
    }
    const auto start = Clock::now();
    prune(jobs, inputs);
    for (Job& job : jobs) prepare(job, inputs);
    share_global_scales(jobs);
    if (algorithm.calibrated != nullptr) {
      std::vector<LinearTask> tasks;
      for (Job& job : jobs) {
        const PlannedLinear& planned = context_.plan->linears[job.linear];
        LinearTask task;
        task.module = planned.shape.module;
        task.rows = job.weight->rows;
        task.cols = job.weight->cols;
        task.weight = job.values;
        task.args = weight_args(*context_.plan, planned);
        task.input_args = context_.plan->groups[planned.scheme].scheme.input_activations;
        task.scale_dtype = context_.plan->layout->scale_dtype(task.args, planned.shape.dtype);
        task.params = job.params;
        task.out = &job.coded;
        tasks.push_back(std::move(task));
      }
      algorithm.calibrated->quantize(tasks, inputs, context_.run);
      for (std::size_t i = 0; i < jobs.size(); ++i) join(tasks[i].record, jobs[i].record);
    } else {
      for (Job& job : jobs) code_plain(*algorithm.quantizer, job);
    }
    double weights = 0;
    for (const Job& job : jobs) weights += static_cast<double>(job.values.size());
    const double seconds = seconds_since(start);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const double share = static_cast<double>(jobs[i].weight->rows * jobs[i].weight->cols) / std::max(weights, 1.0);
      if (entries[i]->static_input) scale_inputs(inputs, jobs[i]);
      finish(jobs[i], inputs, seconds * share);
      jobs[i] = Job{};
    }
  }
}

void BlockSolver::solve_plain(const Program& program, const std::vector<WorkLinear>& linears) {
  // Fused sets lie in one block; one by one would miss what they share.
  std::map<int, float> shared;
  for (const WorkLinear& entry : linears) {
    const int set = context_.plan->linears[entry.linear].fused_set;
    if (set < 0) continue;
    Job job = load(weight_at(program, entry.place), entry.linear);
    prune(std::span(&job, 1), {});
    prepare(job, {});
    if (!job.params.global_scale) continue;
    const auto [at, is_new] = shared.try_emplace(set, *job.params.global_scale);
    if (!is_new) at->second = std::min(at->second, *job.params.global_scale);
  }
  for (const WorkLinear& entry : linears) {
    const auto start = Clock::now();
    Job job = load(weight_at(program, entry.place), entry.linear);
    prune(std::span(&job, 1), {});
    prepare(job, {});
    const auto found = shared.find(context_.plan->linears[entry.linear].fused_set);
    if (found != shared.end()) job.params.global_scale = found->second;
    const PlannedLinear& planned = context_.plan->linears[entry.linear];
    code_plain(*context_.plan->work->algorithms[planned.modifier].quantizer, job);
    finish(job, {}, seconds_since(start));
  }
}

void BlockSolver::solve_table(const LinearWeight& table, std::size_t linear) {
  Job job = load(table, linear);
  prepare(job, {});
  const PlannedLinear& planned = context_.plan->linears[linear];
  const ModifierAlgorithm& algorithm = context_.plan->work->algorithms[planned.modifier];
  const Scheme& scheme = context_.plan->groups[planned.scheme].scheme;
  const auto start = Clock::now();
  if (algorithm.calibrated == nullptr) {
    code_plain(*algorithm.quantizer, job);
  } else {
    InputStatistics nothing;
    nothing.cols = table.cols;
    LinearTask task;
    task.module = planned.shape.module;
    task.rows = table.rows;
    task.cols = table.cols;
    task.weight = job.values;
    task.args = *scheme.weights;
    task.scale_dtype = context_.plan->layout->scale_dtype(task.args, planned.shape.dtype);
    task.params = job.params;
    task.out = &job.coded;
    algorithm.calibrated->quantize(std::span(&task, 1), nothing, context_.run);
    job.record = std::move(task.record);
  }
  finish(job, {}, seconds_since(start));
}

// The bias follows its weight, as it is stored.
std::optional<BiasCorrection> BlockSolver::finish_bias(Job& job, const InputStatistics& inputs,
                                                       std::span<const float> values) {
  if (!job.bias) return std::nullopt;
  std::vector<float> bias = context_.weights->read(job.weight->bias, context_.run.threads);
  std::optional<BiasCorrection> corrected;
  if (inputs.tokens > 0 && inputs.mean.size() == job.coded.cols) {
    const DType type = context_.plan->copies[*job.bias].tensor->dtype;
    corrected = correct_bias(bias, job.values, values, inputs.mean, type, context_.run.threads);
    job.record.notes.push_back(corrected->note);
    bias = corrected->values;
  } else {
    job.record.notes.emplace_back("no token reached it: its bias was not corrected");
  }
  context_.output->write_copy(*job.bias, bias);
  context_.finished(context_.output->key_of_copy(*job.bias), ItemResult{});
  // With unquantized inputs what follows learns from the model as it was.
  if (!context_.plan->options.calibration.unquantized_inputs) {
    context_.weights->set(job.weight->bias, std::move(bias));
  }
  return corrected;
}

void BlockSolver::finish(Job& job, const InputStatistics& inputs, double seconds) {
  const PlannedLinear& planned = context_.plan->linears[job.linear];
  job.coded.mask = std::move(job.mask);
  // Solvers may have worked in the weights' place: errors are against what they were.
  job.values = context_.weights->read(*job.weight, context_.run.threads);
  ItemResult result = context_.output->write_linear(job.linear, scheme_of(job), job.values, job.coded);
  std::vector<float> values = dequantize(job.coded, context_.run.threads);
  const std::optional<BiasCorrection> bias = finish_bias(job, inputs, values);
  if (context_.plan->work->algorithms[planned.modifier].calibrated != nullptr || !inputs.gram.empty() ||
      (!planned.pruning.empty() && inputs.tokens > 0)) {
    CalibrationRecord record;
    record.tokens = inputs.tokens;
    record.damping = job.record.damping;
    record.fallback = job.record.fallback;
    if (!inputs.gram.empty() && inputs.tokens > 0) {
      record.output =
          output_errors(job.values, values, job.coded.rows, inputs.gram, job.coded.cols, context_.run.threads);
      if (bias) include_bias(*bias, *record.output);
    }
    result.calibration = std::move(record);
  }
  result.notes = std::move(job.record.notes);
  result.seconds = seconds;
  context_.finished(context_.output->key_of_linear(job.linear), std::move(result));
  const bool keep_floats = context_.plan->options.calibration.unquantized_inputs;
  const auto quantizer = keep_floats ? std::nullopt : input_quantizer(job);
  if (quantizer) static_inputs_[planned.shape.module] = *quantizer;
  job.coded = QuantizedTensor{};
  job.values = std::vector<float>{};
  if (keep_floats) return;
  context_.weights->set(*job.weight, std::move(values));
}

}  // namespace quant
