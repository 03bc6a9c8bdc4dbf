#include "structured/compensation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "quant/error.h"
#include "structured/block_activations.h"
#include "structured/channel_sums.h"
#include "structured/config_rewrite.h"
#include "structured/least_squares.h"

namespace quant::structured {
namespace {

// Gram matrices that are collected at once; more inputs are done in several passes over the end of a stage.
constexpr std::uint64_t kStatisticsBytes = 1536ULL << 20U;

// One weight that is fitted. Numbers of operations and values are those of the smaller model's program, whose
// operations are the original's one by one.
struct FitUnit {
  std::size_t op = 0;
  int expert = -1;  // within the smaller model
  const LinearWeight* weight = nullptr;
  std::string original;  // module
  Units kept;            // columns
  bool cross = false;
  ValueId residual = -1;  // what the output is added to
};

// A new column of ones at the end of x [count, cols].
std::vector<float> with_ones(std::span<const float> x, std::uint64_t count, std::uint64_t cols) {
  std::vector<float> result(count * (cols + 1), 1.0F);
  for (std::uint64_t r = 0; r < count; ++r) {
    std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(r * cols), cols,
                result.begin() + static_cast<std::ptrdiff_t>(r * (cols + 1)));
  }
  return result;
}

std::vector<float> columns_of(std::span<const float> x, std::uint64_t cols, const Units& kept) {
  if (kept.size() == cols) return {x.begin(), x.end()};
  std::vector<float> result;
  result.reserve(x.size() / cols * kept.size());
  for (std::uint64_t r = 0; r < x.size() / cols; ++r) {
    for (const std::uint32_t c : kept) result.push_back(x[r * cols + c]);
  }
  return result;
}

// The stream that a linear's output is added to, if it is there before operation `available`; -1 if a norm or a
// product stands between.
ValueId residual_of(const Program& program, std::size_t op, std::size_t available) {
  ValueId value = output_of(program.ops[op]);
  for (std::size_t i = op + 1; i < program.ops.size(); ++i) {
    const auto inputs = inputs_of(program.ops[i]);
    if (std::find(inputs.begin(), inputs.end(), value) == inputs.end()) continue;
    const auto* add = std::get_if<AddOp>(&program.ops[i]);
    if (add == nullptr) return -1;
    const ValueId other = add->a == value ? add->b : add->a;
    bool made = other == program.input;
    for (std::size_t k = 0; k < available; ++k) made = made || output_of(program.ops[k]) == other;
    if (made) return other;
    value = add->out;
  }
  return -1;
}

class Compensator {
 public:
  explicit Compensator(const CompensationInput& input)
      : in_(input),
        options_(input.plan->options),
        threads_(input.context->forward.threads),
        reference_weights_(*input.tensors),
        outer_(outer_units(*input.kept, everything(*input.axes, *input.model))),
        cuts_(make_cuts(*input.plan->checkpoint, *input.axes, *input.model, outer_, input.biases)),
        checkpoint_(
            *input.plan->checkpoint, cuts_,
            rewrite_config(input.plan->checkpoint->config().text, *input.axes, *input.model, outer_, input.bias_keys)),
        tensors_(checkpoint_, *input.plan->registry),
        program_(build_model_program(tensors_)),
        weights_(tensors_),
        two_(options_.compensation == Compensation::least_squares && options_.target == CompensationTarget::model),
        own_store_(*input.context->budget, input.context->work->chunks.size()),
        reference_store_(*input.context->budget, input.context->work->chunks.size()) {
    for (const TensorCut& cut : cuts_.tensors) cut_of_[cut.name] = &cut;
  }

  CompensationResult run() {
    in_.begin(0, "embeddings");
    load(program_.embeddings);
    own_store_ = pass(program_.embeddings, weights_, std::move(own_store_));
    if (two_) reference_store_ = pass(in_.program->embeddings, reference_weights_, std::move(reference_store_));
    unload(program_.embeddings);
    std::size_t place = 0;
    for (std::size_t b = 0; b < in_.program->blocks.size(); ++b) {
      in_.begin(b, in_.program->blocks[b].name);
      const bool kept = place < in_.kept->layers.size() && in_.kept->layers[place] == b;
      if (kept) {
        run_block(b, place++);
      } else if (two_) {
        reference_store_ = pass(in_.program->blocks[b], reference_weights_, std::move(reference_store_));
      }
    }
    return std::move(result_);
  }

 private:
  // A whole program without a stop.
  ActivationStore pass(const Program& program, const ModelWeights& weights, ActivationStore input) {
    BlockStream stream(*in_.context, program, weights, std::move(input));
    const ValueId live[] = {program.output};
    for (std::size_t c = 0; c < in_.context->work->chunks.size(); ++c) {
      stream.advance(c, program.ops.size(), live, program.ops.size(), live);
      worked();
    }
    stream.arrive(program.ops.size(), live);
    return stream.release();
  }

  void worked() const {
    if (in_.context->progress) in_.context->progress(0);
  }

  // Tensors of the smaller model that are no copies.
  void load(const Program& program) {
    for (const std::string& name : tensors_of(program)) {
      const TensorCut& cut = *cut_of_.at(name);
      if (!cut.whole()) checkpoint_.hold(cut);
    }
  }
  void unload(const Program& program) {
    for (const std::string& name : tensors_of(program)) weights_.drop(name);
    checkpoint_.release_all();
  }
  static std::vector<std::string> tensors_of(const Program& program) {
    std::vector<std::string> names;
    const auto add = [&](const std::string& name) {
      if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    };
    for (const Op& op : program.ops) {
      if (const auto* norm = std::get_if<NormOp>(&op)) {
        add(norm->weight), add(norm->bias);
        for (const std::string& weight : norm->group_weights) add(weight);
      } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
        for (const LinearWeight& weight : linear->weights) add(weight.tensor), add(weight.bias);
      } else if (const auto* table = std::get_if<EmbeddingOp>(&op)) {
        add(table->weight);
      }
    }
    return names;
  }

  void run_block(std::size_t original, std::size_t place) {
    const Program& program = program_.blocks[place];
    const Program& reference = in_.program->blocks[original];
    load(program);
    own_.emplace(*in_.context, program, weights_, std::move(own_store_));
    if (two_) other_.emplace(*in_.context, reference, reference_weights_, std::move(reference_store_));
    const std::vector<Stage> stages = stages_of(program);
    const std::vector<Stage> reference_stages = stages_of(reference);
    for (std::size_t s = 0; s < stages.size(); ++s) {
      const std::vector<FitUnit> units = units_of(original, place, stages[s]);
      if (!units.empty()) run_stage(program, stages[s], reference_stages[s], units);
    }
    leave(program, reference);
    own_.reset();
    other_.reset();
    unload(program);
  }

  // With the unpruned model as the target, output projections that lost nothing have something to make up for, too.
  std::vector<FitUnit> units_of(std::size_t original, std::size_t place, const Stage& stage) const {
    const BlockAxes& axes = in_.axes->blocks[original];
    const KeptColumns columns(axes, all_units(in_.model->hidden), in_.kept->of_layer[original]);
    std::vector<std::size_t> readers;
    if (axes.attention) readers.push_back(axes.attention->reader);
    for (const FfnAxis& ffn : axes.ffn) readers.push_back(ffn.reader);
    std::vector<FitUnit> units;
    for (const std::size_t op : readers) {
      if (std::find(stage.members.begin(), stage.members.end(), op) == stage.members.end()) continue;
      const auto& own = std::get<LinearOp>(program_.blocks[place].ops[op]);
      const auto& whole = std::get<LinearOp>(axes.program->ops[op]);
      for (std::size_t e = 0; e < own.weights.size(); ++e) {
        const std::size_t from = own.routing < 0 ? 0 : in_.kept->of_layer[original].experts[e];
        FitUnit unit;
        unit.op = op;
        unit.expert = own.routing < 0 ? -1 : static_cast<int>(e);
        unit.weight = &own.weights[e];
        unit.original = whole.weights[from].module;
        unit.kept = columns.of(whole.in, from);
        unit.cross = two_ && own.routing < 0;
        if (unit.cross) unit.residual = residual_of(program_.blocks[place], op, stage.linears);
        const bool lost = unit.kept.size() < own.weights[e].cols;
        if (lost || unit.cross) units.push_back(std::move(unit));
      }
    }
    // What the stream lacks is made up for once.
    for (std::size_t u = 0; u + 1 < units.size(); ++u) {
      const bool later = std::any_of(units.begin() + static_cast<std::ptrdiff_t>(u) + 1, units.end(),
                                     [&](const FitUnit& other) { return other.residual == units[u].residual; });
      if (later) units[u].residual = -1;
    }
    return units;
  }

  bool needs_gram() const { return options_.compensation == Compensation::least_squares; }

  std::uint64_t statistics_bytes(const FitUnit& unit) const {
    const std::uint64_t n = unit.weight->cols + 1;
    if (!needs_gram()) return 4 * n * sizeof(double);
    return sizeof(float) * n * (n * (unit.cross ? 2 : 1) + (unit.residual >= 0 ? unit.weight->rows : 0));
  }

  void run_stage(const Program& program, const Stage& stage, const Stage& reference_stage,
                 const std::vector<FitUnit>& units) {
    for (std::size_t first = 0; first < units.size();) {
      std::uint64_t bytes = 0;
      std::size_t last = first;
      while (last < units.size() && (last == first || bytes + statistics_bytes(units[last]) <= kStatisticsBytes)) {
        bytes += statistics_bytes(units[last++]);
      }
      const std::span<const FitUnit> some(units.data() + first, last - first);
      collect(program, stage, reference_stage, some);
      own_->arrive(stage.begin, stage.live);
      if (other_) other_->arrive(reference_stage.begin, reference_stage.live);
      for (std::size_t u = 0; u < some.size(); ++u) solve(some[u], u);
      first = last;
    }
  }

  void collect(const Program& program, const Stage& stage, const Stage& reference_stage,
               std::span<const FitUnit> units) {
    std::vector<ValueId> wanted;
    grams_.clear();
    sums_.clear();
    for (const FitUnit& unit : units) {
      const auto& op = std::get<LinearOp>(program.ops[unit.op]);
      wanted.push_back(op.in);
      if (op.routing >= 0) wanted.push_back(op.routing);
      if (unit.residual >= 0) wanted.push_back(unit.residual);
      const std::uint64_t cols = unit.weight->cols + (unit.weight->bias.empty() ? 0 : 1);
      sums_.emplace_back(unit.weight->cols);
      if (needs_gram()) {
        grams_.emplace_back(cols, in_.context->forward.product, unit.cross, unit.residual >= 0 ? unit.weight->rows : 0);
      }
    }
    for (std::size_t c = 0; c < in_.context->work->chunks.size(); ++c) {
      const Values own = own_->advance(c, stage.begin, stage.live, stage.linears, wanted);
      std::optional<Values> other;
      if (other_)
        other = other_->advance(c, reference_stage.begin, reference_stage.live, reference_stage.linears, wanted);
      for (std::size_t u = 0; u < units.size(); ++u) {
        add(program, units[u], u, own, other ? &*other : nullptr, in_.context->work->chunks[c].tokens);
      }
      worked();
    }
  }

  void add(const Program& program, const FitUnit& unit, std::size_t number, const Values& own, const Values* other,
           std::uint64_t tokens) {
    const auto& op = std::get<LinearOp>(program.ops[unit.op]);
    const std::uint64_t cols = unit.weight->cols;
    std::span<const float> x = own.at(op.in);
    std::uint64_t count = x.size() / cols;
    if (unit.expert >= 0) {
      const auto rows = ProgramRunner::expert_rows(program, op, own, tokens, false);
      const auto e = static_cast<std::size_t>(unit.expert);
      count = rows[e + 1] - rows[e];
      x = x.subspan(rows[e] * cols, count * cols);
    }
    if (!needs_gram()) return sums_[number].add_sequence(x, count, threads_);
    std::span<const float> f;
    if (unit.cross) f = other->at(op.in);
    std::vector<float> with_bias, reference_with_bias, r;
    if (!unit.weight->bias.empty()) {
      with_bias = with_ones(x, count, cols);
      x = with_bias;
      if (unit.cross) reference_with_bias = with_ones(f, count, cols);
      if (unit.cross) f = reference_with_bias;
    }
    if (unit.residual < 0) return grams_[number].add(x, f, count, threads_);
    r = columns_of(other->at(unit.residual), in_.model->hidden, in_.kept->hidden);
    grams_[number].add(x, f, r, own.at(unit.residual), count, threads_);
  }

  void solve(const FitUnit& unit, std::size_t number) {
    const LinearWeight& weight = *unit.weight;
    FitProblem problem;
    problem.bias = !weight.bias.empty();
    problem.rows = weight.rows;
    problem.cols = weight.cols + (problem.bias ? 1 : 0);
    problem.kept = unit.kept;
    problem.damping = options_.damping;
    problem.weight = weights_.read(weight, threads_);
    if (problem.bias) append_bias(problem, weights_.read(weight.bias, threads_));
    FittedLinear done;
    Fit fit;
    const std::vector<float> plain =
        without_columns(problem.weight, problem.rows, problem.cols, problem.kept, problem.bias);
    if (needs_gram()) {
      GramAccumulator& gram = grams_[number];
      done.record.tokens = gram.rows();
      problem.gram = gram.take_gram(threads_);
      if (unit.cross) problem.cross = gram.take_cross(threads_);
      if (unit.residual >= 0) problem.missing = gram.take_outputs(threads_);
      fit = done.record.tokens == 0 ? Fit{plain, 0, "no calibration token reached it"} : fit_columns(problem, threads_);
      round(unit, problem, fit.weight);
      measure(problem, plain, fit, done);
    } else {
      done.record.tokens = sums_[number].rows();
      fit.weight = plain;
      if (problem.bias) add_means(problem, sums_[number].means(), fit.weight);
      if (!problem.bias) fit.fallback = "it has no bias";
      round(unit, problem, fit.weight);
    }
    done.record.damping = fit.damping;
    done.record.fallback = fit.fallback;
    store(unit, problem, fit.weight);
    result_.linears[unit.original] = std::move(done);
  }

  static void append_bias(FitProblem& problem, const std::vector<float>& bias) {
    std::vector<float> wide(problem.rows * problem.cols);
    for (std::uint64_t r = 0; r < problem.rows; ++r) {
      std::copy_n(problem.weight.begin() + static_cast<std::ptrdiff_t>(r * (problem.cols - 1)), problem.cols - 1,
                  wide.begin() + static_cast<std::ptrdiff_t>(r * problem.cols));
      wide[(r + 1) * problem.cols - 1] = bias[r];
    }
    problem.weight = std::move(wide);
  }

  static void add_means(const FitProblem& problem, const std::vector<double>& means, std::vector<float>& fitted) {
    const std::uint64_t cols = problem.cols - 1;
    std::vector<bool> kept(cols, false);
    for (const std::uint32_t c : problem.kept) kept[c] = true;
    for (std::uint64_t r = 0; r < problem.rows; ++r) {
      double sum = 0;
      for (std::uint64_t c = 0; c < cols; ++c) {
        if (!kept[c]) sum += static_cast<double>(problem.weight[r * problem.cols + c]) * means[c];
      }
      fitted[r * problem.cols + cols] += static_cast<float>(sum);
    }
  }

  // What follows sees the weights as they are stored.
  void round(const FitUnit& unit, const FitProblem& problem, std::vector<float>& values) const {
    const DType type = cut_of_.at(unit.weight->tensor)->dtype;
    const DType bias = problem.bias ? cut_of_.at(unit.weight->bias)->dtype : type;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const DType own = problem.bias && (i + 1) % problem.cols == 0 ? bias : type;
      if (own == DType::F16 || own == DType::BF16) values[i] = round_to_dtype(own, values[i]);
    }
  }

  void measure(const FitProblem& problem, const std::vector<float>& plain, const Fit& fit, FittedLinear& done) const {
    if (done.record.tokens == 0) return;
    const auto errors = [&](const std::vector<float>& values) {
      return output_errors(problem.weight, values, problem.rows, problem.gram, problem.cols, threads_);
    };
    done.record.output = errors(fit.weight);
    const OutputErrors before = errors(plain);
    done.error_before = before.signal > 0 ? before.noise / before.signal : 0;
    if (unpruned(problem)) return;
    done.note = fmt::format("error of outputs {:.4f} without least squares", done.error_before);
  }
  static bool unpruned(const FitProblem& problem) {
    return problem.kept.size() + (problem.bias ? 1 : 0) == problem.cols;
  }

  // Into the stream that goes on, with zeros for what is removed, and into the file, without.
  void store(const FitUnit& unit, const FitProblem& problem, const std::vector<float>& fitted) {
    const LinearWeight& weight = *unit.weight;
    std::vector<float> full(weight.rows * weight.cols), bias;
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      std::copy_n(fitted.begin() + static_cast<std::ptrdiff_t>(r * problem.cols), weight.cols,
                  full.begin() + static_cast<std::ptrdiff_t>(r * weight.cols));
      if (problem.bias) bias.push_back(fitted[(r + 1) * problem.cols - 1]);
    }
    const std::uint64_t n = unit.kept.size();
    std::vector<float> stored(weight.rows * n);
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      for (std::uint64_t c = 0; c < n; ++c) {
        stored[weight.transposed ? c * weight.rows + r : r * n + c] = full[r * weight.cols + unit.kept[c]];
      }
    }
    const std::uint64_t slice = weight.slice < 0 ? 0 : static_cast<std::uint64_t>(weight.slice);
    in_.output->write_values(weight.tensor, slice * stored.size(), stored);
    if (problem.bias) in_.output->write_values(weight.bias, 0, bias);
    weights_.set(weight, std::move(full));
    if (problem.bias) weights_.set(weight.bias, std::move(bias));
  }

  void leave(const Program& program, const Program& reference) {
    const ValueId own_live[] = {program.output};
    const ValueId other_live[] = {reference.output};
    BlockReport report;
    report.name = program.name;
    OutputErrors errors;
    for (std::size_t c = 0; c < in_.context->work->chunks.size(); ++c) {
      const Values own = own_->advance(c, program.ops.size(), own_live, program.ops.size(), own_live);
      worked();
      if (!other_) continue;
      const Values other = other_->advance(c, reference.ops.size(), other_live, reference.ops.size(), other_live);
      add_errors(columns_of(other.at(reference.output), in_.model->hidden, in_.kept->hidden), own.at(program.output),
                 errors);
    }
    own_->arrive(program.ops.size(), own_live);
    own_store_ = own_->release();
    if (other_) {
      other_->arrive(reference.ops.size(), other_live);
      reference_store_ = other_->release();
      report.output = errors;
    }
    if (report.name != reference.name) report.notes.push_back("was " + reference.name);
    result_.blocks.push_back(std::move(report));
  }

  static void add_errors(const std::vector<float>& reference, const std::vector<float>& own, OutputErrors& errors) {
    const ErrorSums sums = measure_values(reference, own);
    errors.signal += sums.signal;
    errors.noise += sums.noise;
    errors.dot += sums.dot;
    errors.recon += sums.recon;
  }

  const CompensationInput& in_;
  const StructuredOptions& options_;
  int threads_;
  ModelWeights reference_weights_;
  KeptUnits outer_;
  CutList cuts_;
  CutCheckpoint checkpoint_;
  LogicalTensors tensors_;
  ModelProgram program_;
  ModelWeights weights_;
  bool two_;
  std::map<std::string, const TensorCut*> cut_of_;
  ActivationStore own_store_, reference_store_;
  std::optional<BlockStream> own_, other_;
  std::vector<GramAccumulator> grams_;
  std::vector<ChannelSums> sums_;
  CompensationResult result_;
};

}  // namespace

KeptUnits outer_units(const KeptUnits& kept, const KeptUnits& all) {
  KeptUnits outer = kept;
  for (std::size_t b = 0; b < outer.of_layer.size(); ++b) {
    outer.of_layer[b].heads = all.of_layer[b].heads;
    outer.of_layer[b].groups = all.of_layer[b].groups;
    outer.of_layer[b].ffn = all.of_layer[b].ffn;
  }
  return outer;
}

CompensationResult compensate(const CompensationInput& input) { return Compensator(input).run(); }

}  // namespace quant::structured
