#include "pipeline/block_transforms.h"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/statistics_collector.h"
#include "pipeline/unit_rows.h"
#include "quant/error.h"

namespace quant {
namespace {

// The readers of a site as tasks, with the weights that they point into.
struct Readers {
  std::vector<std::vector<float>> weights;
  std::vector<LinearTask> tasks;
};

bool is_identity(const std::vector<std::uint32_t>& rows) {
  for (std::size_t c = 0; c < rows.size(); ++c) {
    if (rows[c] != c) return false;
  }
  return true;
}

class BlockTransforms {
 public:
  BlockTransforms(const TransformContext& context, std::set<std::string>& changed)
      : context_(context), program_(*context.block->program), changed_(changed) {
    for (const std::size_t index : context.block->linears) {
      const PlannedLinear& linear = context.plan->linears[index];
      planned_[linear.shape.module] = index;
      coded_.insert(linear.weight->name);
    }
  }

  std::vector<std::string> apply(std::vector<InputStatistics> statistics) {
    const auto& algorithms = context_.plan->work->algorithms;
    for (std::size_t m = 0; m < algorithms.size(); ++m) {
      for (std::size_t s = 0; s < context_.block->sites.size(); ++s) {
        const WorkSite& work = context_.block->sites[s];
        if (std::find(work.modifiers.begin(), work.modifiers.end(), m) == work.modifiers.end()) continue;
        leave_if_stopped(context_.run.stop);
        apply(*algorithms[m].transform, work.site, statistics[s]);
      }
    }
    return std::move(notes_);
  }

 private:
  Readers readers_of(const SmoothingSite& site) const {
    Readers readers;
    for (const LinearPlace& place : site.readers) {
      const LinearWeight& weight = weight_at(program_, place);
      readers.weights.push_back(context_.weights->read(weight, context_.run.threads));
      LinearTask task;
      task.module = weight.module;
      task.rows = weight.rows;
      task.cols = weight.cols;
      task.weight = readers.weights.back();
      const auto planned = planned_.find(weight.module);
      task.quantized = planned != planned_.end();
      if (task.quantized) {
        const PlannedLinear& linear = context_.plan->linears[planned->second];
        task.args = *context_.plan->groups[linear.scheme].scheme.weights;
        task.input_args = context_.plan->groups[linear.scheme].scheme.input_activations;
        task.scale_dtype = context_.plan->layout->scale_dtype(task.args, linear.shape.dtype);
      }
      readers.tasks.push_back(std::move(task));
    }
    return readers;
  }

  void apply(const Transform& transform, const SmoothingSite& site, InputStatistics& statistics) {
    SmoothingGroup group;
    group.producer = site.kind;
    group.smooth_layer = site.smooth_layer;
    if (!is_identity(site.rows)) group.channel = site.rows;
    SolveRecord record;
    std::vector<float> factors;
    {
      Readers readers = readers_of(site);
      group.balance = readers.tasks;
      factors = transform.factors(group, statistics, context_.run, record);
    }
    note(site, record);
    if (!factors.empty()) {
      const FoldTarget target{&program_, context_.weights, context_.reference,
                              &coded_,   &changed_,        context_.run.threads};
      factors = fold(target, site, factors);
      if (factors.empty()) {
        notes_.push_back(
            fmt::format("{}: not rescaled: a stored value would leave the range of its type", site.smooth_layer));
        return;
      }
      rescale(statistics, factors);
    }
    adjust(transform, site, statistics);
  }

  // Only weights that will be coded may change; the unquantized model keeps its own.
  void adjust(const Transform& transform, const SmoothingSite& site, const InputStatistics& statistics) {
    Readers readers = readers_of(site);
    std::vector<LinearTask> coded;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < readers.tasks.size(); ++i) {
      if (!readers.tasks[i].quantized) continue;
      coded.push_back(std::move(readers.tasks[i]));
      places.push_back(i);
    }
    if (coded.empty()) return;
    transform.adjust(coded, statistics, context_.run);
    for (const std::size_t place : places) {
      context_.weights->set(weight_at(program_, site.readers[place]), std::move(readers.weights[place]));
    }
  }

  void note(const SmoothingSite& site, const SolveRecord& record) {
    if (!record.fallback.empty()) notes_.push_back(fmt::format("{}: {}", site.smooth_layer, record.fallback));
    for (const std::string& text : record.notes) notes_.push_back(fmt::format("{}: {}", site.smooth_layer, text));
  }

  const TransformContext& context_;
  const Program& program_;
  std::set<std::string>& changed_;
  std::map<std::string, std::size_t> planned_;
  std::set<std::string> coded_;
  std::vector<std::string> notes_;
};

}  // namespace

std::vector<InputStatistics> collect_sites(BlockStream& stream, const TransformContext& context,
                                           const StreamContext& stream_context) {
  const CalibrationWork& work = *context.plan->work;
  const Program& program = *context.block->program;
  std::vector<StatisticsCollector> collectors;
  std::vector<InputUnit> units;
  std::size_t until = 0;
  std::vector<ValueId> wanted;
  for (const WorkSite& site : context.block->sites) {
    const InputUnit unit = unit_of(site);
    until = std::max(until, first_reader(program, site.site));
    want(program, unit, wanted);
    collectors.emplace_back(program.values[static_cast<std::size_t>(unit.value)].width, site.needs,
                            stream_context.forward.product);
    units.push_back(unit);
  }
  for (std::size_t chunk = 0; chunk < work.chunks.size(); ++chunk) {
    Values values = stream.advance(chunk, stream.position(), {}, until, wanted);
    for (std::size_t u = 0; u < units.size(); ++u) {
      const UnitRows rows = rows_of(program, units[u], values, work.chunks[chunk].tokens, work.all_experts);
      collectors[u].add(rows.values, {}, rows.count, context.run.threads);
    }
    stream_context.progress(operations_between(work, program, 0, until, work.chunks[chunk].tokens));
  }
  stream.runner().release(0, until);
  std::vector<InputStatistics> statistics;
  for (StatisticsCollector& collector : collectors) statistics.push_back(collector.take(context.run.threads));
  return statistics;
}

std::vector<std::string> transform_block(const TransformContext& context, std::vector<InputStatistics> statistics,
                                         std::set<std::string>& changed) {
  return BlockTransforms(context, changed).apply(std::move(statistics));
}

}  // namespace quant
