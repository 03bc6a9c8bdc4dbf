#include "pipeline/calibrated_run.h"

#include <algorithm>
#include <set>
#include <utility>

#include "pipeline/block_solver.h"
#include "pipeline/block_stream.h"
#include "pipeline/block_transforms.h"
#include "pipeline/finish.h"
#include "pipeline/imported_statistics.h"
#include "pipeline/memory_watch.h"
#include "pipeline/run_state.h"
#include "pipeline/statistics_collector.h"
#include "pipeline/statistics_keeper.h"
#include "pipeline/unit_rows.h"
#include "quant/error.h"

namespace quant {
namespace {

// One model on its way: the quantized one, or the unquantized one beside it.
struct Side {
  explicit Side(const LogicalTensors& tensors) : weights(tensors) {}
  ModelWeights weights;
  std::unique_ptr<BlockStream> stream;
};

// What the keys and values of a block, which has one attention, were seen to lie in.
struct CacheRanges {
  std::pair<float, float> keys{0.0F, 0.0F};
  std::pair<float, float> values{0.0F, 0.0F};

  void watch(ProgramRunner& runner) {
    runner.observe_kv([this](std::span<const float> k, std::span<const float> v) {
      widen(k, keys);
      widen(v, values);
    });
  }
  static void widen(std::span<const float> x, std::pair<float, float>& range) {
    for (const float value : x) {
      range.first = std::min(range.first, value);
      range.second = std::max(range.second, value);
    }
  }
};

class CalibratedRun {
 public:
  explicit CalibratedRun(const CalibratedRunContext& context)
      : context_(context),
        plan_(*context.plan),
        work_(*context.plan->work),
        budget_(context.directory, plan_.calibration->activation_bytes),
        output_(plan_, *context.writers, *context.pool),
        keeper_(plan_, context.directory),
        run_{plan_.options.threads, context.stop} {
    stream_.work = &work_;
    stream_.forward = {plan_.calibration->product, plan_.options.threads, work_.all_experts};
    stream_.budget = &budget_;
    stream_.stop = context.stop;
    stream_.progress = [this](double operations) { worked(operations); };
    sides_.push_back(std::make_unique<Side>(work_.tensors));
    if (work_.second_stream) sides_.push_back(std::make_unique<Side>(work_.tensors));
  }

  std::vector<BlockReport> execute() {
    RunProgress& progress = *context_.progress;
    progress.operations_total = plan_.calibration->total_operations();
    progress.blocks = plan_.calibration->blocks;
    const bool runs = work_.statistics == nullptr;
    state_ = load_state(context_.directory, runs ? work_.chunks.size() : 0, runs ? sides_.size() : 0, budget_);
    if (state_.blocks > work_.blocks.size()) state_ = RunState{};
    keeper_.resume(state_.blocks);
    forget_unfinished();
    progress.operations_resumed = finished_share() * progress.operations_total;
    progress.operations_done = progress.operations_resumed;
    MemoryWatch watch;
    for (std::size_t b = state_.blocks; b < work_.blocks.size(); ++b) run_block(b);
    *context_.peak_memory = std::max(*context_.peak_memory, watch.close());
    context_.committer->flush();
    if (std::string warning = keeper_.finish(); !warning.empty()) context_.warnings->push_back(std::move(warning));
    return std::move(state_.reports);
  }

 private:
  // Items of a block that was not finished are coded again, with the same result.
  void forget_unfinished() {
    for (std::size_t b = 0; b < work_.blocks.size(); ++b) {
      for (const std::size_t linear : work_.blocks[b].linears) settle(output_.key_of_linear(linear), b);
      for (const std::size_t copy : work_.blocks[b].copies) settle(output_.key_of_copy(copy), b);
      for (const std::size_t bias : work_.blocks[b].biases) settle(output_.key_of_copy(bias), b);
      for (const std::size_t cache : work_.blocks[b].caches) settle(output_.key_of_cache(cache), b);
    }
  }
  void settle(const ItemKey& key, std::size_t block) {
    if (block >= state_.blocks) {
      context_.results->erase(key);
    } else if (!context_.results->contains(key)) {
      throw Error(ErrorCode::corrupt_file, context_.directory.string() + " lacks an item of a finished block",
                  "start over with --overwrite-partial");
    }
  }

  double finished_share() const {
    return static_cast<double>(state_.blocks) / static_cast<double>(std::max<std::size_t>(work_.blocks.size(), 1));
  }

  void worked(double operations) {
    RunProgress& progress = *context_.progress;
    progress.operations_done = std::min(progress.operations_done + operations, progress.operations_total);
    context_.tick();
  }

  void run_block(std::size_t index) {
    const BlockWork& block = work_.blocks[index];
    const bool is_layer = index > 0 && index <= work_.program.blocks.size();
    BlockReport report;
    report.name = block.program->name;
    context_.progress->block = is_layer ? index : context_.progress->block;
    context_.progress->current = block.program->name;
    BlockSolver solver({&plan_, &output_, &sides_.front()->weights, run_,
                        [this](const ItemKey& key, ItemResult result) { take(key, std::move(result)); },
                        [this](const std::string& module) {
                          context_.progress->current = module;
                          context_.tick();
                        }});
    if (!block.sites.empty()) report.notes = transform(block);
    write_copies(block);
    code_tables(block, solver);
    solver.solve_plain(*block.program, block.plain);
    if (work_.statistics != nullptr) {
      for (const Sweep& sweep : block.sweeps) solve_imported(block, sweep, solver);
      close(block);
    } else {
      pass_block(index, solver, report);
    }
    if (is_layer) state_.reports.push_back(std::move(report));
    state_.blocks = index + 1;
    context_.committer->flush();
    if (!block.last) save_state(context_.directory, state_);
  }

  // Takes the tokens through a block, coding its linears on the way.
  void pass_block(std::size_t index, BlockSolver& solver, BlockReport& report) {
    const BlockWork& block = work_.blocks[index];
    open_streams(block);
    CacheRanges ranges;
    if (!block.caches.empty()) ranges.watch(sides_.front()->stream->runner());
    for (const Sweep& sweep : block.sweeps) run_sweep(index, sweep, solver);
    leave(block, solver, report);
    for (const std::size_t cache : block.caches) {
      output_.write_cache(cache, ranges.keys, ranges.values);
      take(output_.key_of_cache(cache), ItemResult{});
    }
    close(block);
    keeper_.close_block();
  }

  // No token passes: what a pass would have collected comes from a file.
  void solve_imported(const BlockWork& block, const Sweep& sweep, BlockSolver& solver) {
    const Program& program = *block.program;
    for (const InputUnit& unit : sweep.units) {
      solver.solve(program, unit, imported_statistics(plan_, program, unit));
      for (const WorkLinear& entry : unit.linears) {
        sides_.front()->weights.drop(weight_at(program, entry.place).tensor);
      }
      worked(solve_operations(plan_, work_, unit));
    }
  }

  std::vector<std::string> transform(const BlockWork& block) {
    const TransformContext context{&plan_, &block, &sides_.front()->weights,
                                   work_.second_stream ? &sides_[1]->weights : nullptr, run_};
    BlockStream stream(stream_, *block.program, sides_.front()->weights, std::move(state_.streams.front()));
    std::vector<InputStatistics> statistics = collect_sites(stream, context, stream_);
    state_.streams.front() = stream.release();
    changed_.clear();
    return transform_block(context, std::move(statistics), changed_);
  }

  void write_copies(const BlockWork& block) {
    for (const std::size_t copy : block.copies) {
      const std::string& name = plan_.copies[copy].tensor->name;
      if (changed_.contains(name)) {
        output_.write_copy(copy, sides_.front()->weights.read(name, run_.threads));
      } else {
        output_.write_copy(copy);
      }
      take(output_.key_of_copy(copy), ItemResult{});
    }
    changed_.clear();
  }

  void code_tables(const BlockWork& block, BlockSolver& solver) {
    for (const std::size_t table : block.tables) {
      const PlannedLinear& linear = plan_.linears[table];
      LinearWeight weight;
      weight.module = linear.shape.module;
      weight.tensor = linear.weight->name;
      weight.rows = linear.shape.rows;
      weight.cols = linear.shape.cols;
      tables_.push_back(weight);
      solver.solve_table(weight, table);
    }
  }

  void open_streams(const BlockWork& block) {
    for (std::size_t s = 0; s < sides_.size(); ++s) {
      ActivationStore input =
          s < state_.streams.size() ? std::move(state_.streams[s]) : ActivationStore(budget_, work_.chunks.size());
      sides_[s]->stream = std::make_unique<BlockStream>(stream_, *block.program, sides_[s]->weights, std::move(input));
    }
    state_.streams.clear();
  }

  // Moves both models to where the sweep's statistics are made, a part of its units at a time, and codes each part.
  void run_sweep(std::size_t block, const Sweep& sweep, BlockSolver& solver) {
    const Program& program = *work_.blocks[block].program;
    bool moved = false;
    for (std::size_t first = 0; first < sweep.units.size();) {
      std::size_t last = first;
      std::uint64_t bytes = 0;
      std::vector<StatisticsCollector> collectors;
      while (last < sweep.units.size()) {
        const InputUnit& unit = sweep.units[last];
        const std::uint64_t more = collecting_bytes(program, unit, stream_.forward.product);
        if (last > first && bytes + more > plan_.calibration->statistics_bytes) break;
        bytes += more;
        collectors.emplace_back(width_of(program, unit.value), unit.needs, stream_.forward.product,
                                unit.needs.residual ? width_of(program, unit.residual) : 0);
        ++last;
      }
      const std::span<const InputUnit> units(sweep.units.data() + first, last - first);
      collect(program, sweep, units, solver, collectors);
      if (!moved) arrive(sweep.begin, sweep.live);
      moved = true;
      for (std::size_t u = 0; u < units.size(); ++u) {
        InputStatistics inputs = collectors[u].take(run_.threads);
        keeper_.add(block, units[u], inputs);
        solver.solve(program, units[u], only(std::move(inputs), units[u].asked));
        worked(solve_operations(plan_, work_, units[u]));
      }
      first = last;
    }
  }

  static std::uint64_t width_of(const Program& program, ValueId value) {
    return program.values[static_cast<std::size_t>(value)].width;
  }

  void prepare(std::size_t to, const Program& program, const BlockSolver& solver) {
    for (const auto& [module, quantizer] : solver.static_inputs()) {
      sides_.front()->stream->runner().set_input_quantizer(module, quantizer);
    }
    // Prepared weights are all that products need: the floats can go, one by one.
    for (const auto& side : sides_) {
      for (std::size_t op = side->stream->position(); op < to; ++op) {
        side->stream->runner().prepare(op, op + 1);
        const auto* linear = std::get_if<LinearOp>(&program.ops[op]);
        if (linear == nullptr) continue;
        for (const LinearWeight& weight : linear->weights) side->weights.drop(weight.tensor);
      }
    }
  }

  void collect(const Program& program, const Sweep& sweep, std::span<const InputUnit> units, const BlockSolver& solver,
               std::vector<StatisticsCollector>& collectors) {
    std::vector<ValueId> wanted;
    for (const InputUnit& unit : units) want(program, unit, wanted);
    const std::size_t from = sides_.front()->stream->position();
    prepare(sweep.begin, program, solver);
    for (std::size_t chunk = 0; chunk < work_.chunks.size(); ++chunk) {
      const std::uint64_t tokens = work_.chunks[chunk].tokens;
      std::vector<Values> values;
      for (const auto& side : sides_) {
        values.push_back(side->stream->advance(chunk, sweep.begin, sweep.live, sweep.linears, wanted));
      }
      double operations =
          static_cast<double>(sides_.size()) * operations_between(work_, program, from, sweep.begin, tokens);
      for (std::size_t u = 0; u < units.size(); ++u) {
        const UnitRows rows = rows_of(program, units[u], values.front(), tokens, work_.all_experts);
        UnitRows reference;
        if (units[u].needs.cross_gram) reference = rows_of(program, units[u], values[1], tokens, work_.all_experts);
        ResidualRows residual;
        if (units[u].needs.residual) residual = {values[1].at(units[u].residual), values[0].at(units[u].residual)};
        collectors[u].add(rows.values, reference.values, rows.count, run_.threads, residual);
        operations += gram_operations(work_, program, units[u], tokens);
      }
      worked(operations);
    }
  }

  void arrive(std::size_t to, std::span<const ValueId> live) {
    for (const auto& side : sides_) side->stream->arrive(to, live);
  }

  // The way from the last statistics to the end of the program.
  void leave(const BlockWork& block, const BlockSolver& solver, BlockReport& report) {
    const Program& program = *block.program;
    if (!block.whole) return;
    const std::size_t from = sides_.front()->stream->position();
    prepare(program.ops.size(), program, solver);
    const ValueId live[] = {program.output};
    // What nothing goes on from is not kept.
    const std::size_t to = block.last ? from : program.ops.size();
    OutputErrors errors;
    for (std::size_t chunk = 0; chunk < work_.chunks.size(); ++chunk) {
      std::vector<Values> values;
      for (const auto& side : sides_) {
        values.push_back(side->stream->advance(chunk, to, live, program.ops.size(), live));
      }
      if (sides_.size() > 1) add_errors(values[1].at(program.output), values[0].at(program.output), errors);
      worked(static_cast<double>(sides_.size()) *
             operations_between(work_, program, from, program.ops.size(), work_.chunks[chunk].tokens));
    }
    for (const auto& side : sides_) side->stream->arrive(to, live);
    if (sides_.size() > 1) report.output = errors;
  }

  static void add_errors(const std::vector<float>& reference, const std::vector<float>& values, OutputErrors& errors) {
    const ErrorSums sums = measure_values(reference, values);
    errors.signal += sums.signal;
    errors.noise += sums.noise;
    errors.dot += sums.dot;
    errors.recon += sums.recon;
  }

  // Weights of the block are forgotten, the residual streams become the state.
  void close(const BlockWork& block) {
    for (const auto& side : sides_) {
      if (!block.last && side->stream != nullptr) state_.streams.push_back(side->stream->release());
      side->stream.reset();
      forget(*block.program, side->weights);
    }
    for (const LinearWeight& table : tables_) sides_.front()->weights.drop(table.tensor);
    tables_.clear();
  }

  static void forget(const Program& program, ModelWeights& weights) {
    for (const Op& op : program.ops) {
      if (const auto* norm = std::get_if<NormOp>(&op)) {
        for (const std::string& tensor : {norm->weight, norm->bias}) {
          if (!tensor.empty()) weights.drop(tensor);
        }
      } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
        for (const LinearWeight& weight : linear->weights) {
          weights.drop(weight.tensor);
          if (!weight.bias.empty()) weights.drop(weight.bias);
        }
      }
    }
  }

  void take(const ItemKey& key, ItemResult result) {
    ItemResult& kept = (*context_.results)[key];
    kept = std::move(result);
    context_.done(key);
    context_.committer->add({{key, &kept}});
    context_.tick();
  }

  const CalibratedRunContext& context_;
  const Plan& plan_;
  const CalibrationWork& work_;
  ActivationBudget budget_;
  ItemOutput output_;
  StatisticsKeeper keeper_;
  RunContext run_;
  StreamContext stream_;
  std::vector<std::unique_ptr<Side>> sides_;
  RunState state_;
  std::set<std::string> changed_;
  std::vector<LinearWeight> tables_;
};

}  // namespace

bool is_calibrated_item(const Plan& plan, const PlannedItem& item) {
  if (plan.work == nullptr) return false;
  if (item.cache) return true;
  return item.quantized ? plan.work->linear_is_here[item.index] : plan.work->copy_is_here[item.index];
}

std::vector<BlockReport> run_calibrated(const CalibratedRunContext& context) {
  return CalibratedRun(context).execute();
}

}  // namespace quant
