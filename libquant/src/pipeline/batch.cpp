#include "pipeline/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>

#include "pipeline/item_output.h"
#include "plan/pruning.h"
#include "plan/resources.h"
#include "plan/sensitivities.h"
#include "quant/error.h"

namespace quant {

struct BatchRunner::Job {
  ItemKey key;
  const PlannedItem* item = nullptr;
  TensorParams params;
  PrunedWeight pruned;  // of a pruned linear, else empty
  ItemResult result;
  std::atomic<bool> bad{false};
};

struct BatchRunner::Slice {
  std::size_t job = 0;
  std::uint64_t first = 0;  // row, or byte of a copied tensor
  std::uint64_t count = 0;
  bool finished = false;
  ErrorSums sums;
  double scale_min = std::numeric_limits<double>::infinity();
  double scale_max = 0;
  std::uint64_t violations = 0;
  double seconds = 0;
  std::vector<double> group_signal;
  std::vector<double> group_noise;
};

namespace {

struct Scratch {
  QuantizedTensor quantized;
  std::vector<float> importance;
  std::vector<ErrorSums> rows;
};

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

// Sums in slice order, so that the result does not depend on which thread did what.
void merge_slice(const std::vector<double>& from, std::vector<double>& into) {
  into.resize(from.size(), 0.0);
  for (std::size_t g = 0; g < from.size(); ++g) into[g] += from[g];
}

void put_mask(std::span<const std::uint8_t> mask, std::uint64_t first, QuantizedTensor& slice) {
  const auto part = mask.subspan(first * slice.cols, slice.rows * slice.cols);
  slice.mask.assign(part.begin(), part.end());
  const auto before = mask.begin() + static_cast<std::ptrdiff_t>(first * slice.cols);
  slice.kept_before = static_cast<std::uint64_t>(std::count(mask.begin(), before, 1));
}

}  // namespace

BatchRunner::BatchRunner(const Plan& plan, const std::vector<std::unique_ptr<ContainerWriter>>& writers,
                         ThreadPool& pool, const std::atomic<bool>* stop)
    : plan_(plan),
      writers_(writers),
      pool_(pool),
      stop_(stop),
      algorithms_(create_algorithms(plan.recipe, *plan.registry)) {}

const Quantizer& BatchRunner::quantizer_of(const PlannedLinear& linear) const {
  const Quantizer* quantizer = algorithms_[linear.modifier].quantizer;
  if (quantizer == nullptr) {
    throw Error(ErrorCode::internal, plan_.recipe.modifiers[linear.modifier].type + " does not choose codes");
  }
  return *quantizer;
}

// Sparsifiers look at whole matrices.
PrunedWeight BatchRunner::pruned_weight(const PlannedLinear& linear, ItemResult& result) const {
  PrunedWeight pruned;
  if (linear.pruning.empty()) return pruned;
  pruned.values.resize(linear.shape.rows * linear.shape.cols);
  pruned.mask.assign(pruned.values.size(), 1);
  read_f32(plan_.checkpoint->view(*linear.weight), 0, pruned.values);
  for (const PlannedPruning& pruning : linear.pruning) {
    PruneTask task;
    task.module = linear.shape.module;
    task.rows = linear.shape.rows;
    task.cols = linear.shape.cols;
    task.weight = pruned.values;
    task.mask = pruned.mask;
    task.pattern = pruning.pattern;
    algorithms_[pruning.modifier].sparsifier->prune(std::span(&task, 1), {}, {plan_.options.threads, stop_});
    std::move(task.record.notes.begin(), task.record.notes.end(), std::back_inserter(result.notes));
  }
  return pruned;
}

TensorParams BatchRunner::params_of(const PlannedLinear& linear, const PrunedWeight& pruned) {
  const Quantizer& quantizer = quantizer_of(linear);
  const auto prepare = [&](const PlannedLinear& member) {
    const QuantArgs args = weight_args(plan_, member);
    std::vector<float> importance;
    if (prepares_with_sensitivities(plan_, member)) read_sensitivities(plan_, member, 0, member.shape.rows, importance);
    // Of a fused set the whole ranges count, whichever member comes first in this run.
    const bool own = linear.fused_set < 0 && !pruned.values.empty();
    const TensorView view =
        own ? f32_view(pruned.values, member.shape.rows, member.shape.cols) : plan_.checkpoint->view(*member.weight);
    return quantizer.prepare(view, args, importance, plan_.options.threads);
  };
  if (linear.fused_set < 0) return prepare(linear);
  auto known = fused_scales_.find(linear.fused_set);
  if (known == fused_scales_.end()) {
    // The largest weight of the set decides, that is, the smallest global scale.
    float scale = std::numeric_limits<float>::infinity();
    for (const PlannedLinear& member : plan_.linears) {
      if (member.fused_set == linear.fused_set) scale = std::min(scale, prepare(member).global_scale.value_or(scale));
    }
    known = fused_scales_.emplace(linear.fused_set, std::isfinite(scale) ? scale : 1.0F).first;
  }
  TensorParams params;
  params.global_scale = known->second;
  return params;
}

void BatchRunner::add_slices(std::size_t job, const PlannedItem& item, std::vector<Slice>& slices) const {
  std::uint64_t total = 0;
  std::uint64_t step = kCopyChunk;
  if (item.quantized) {
    const PlannedLinear& linear = plan_.linears[item.index];
    total = linear.shape.rows;
    step = slice_rows(plan_, linear);
  } else {
    total = plan_.copies[item.index].tensor->bytes;
  }
  for (std::uint64_t first = 0; first < total; first += step) {
    Slice slice;
    slice.job = job;
    slice.first = first;
    slice.count = std::min(step, total - first);
    slices.push_back(std::move(slice));
  }
}

void BatchRunner::note_bad_weights(const PlannedLinear& linear) {
  const TensorView view = plan_.checkpoint->view(*linear.weight);
  std::vector<float> row(linear.shape.cols);
  std::uint64_t count = 0;
  std::string where;
  for (std::uint64_t r = 0; r < linear.shape.rows; ++r) {
    read_f32(view, r * linear.shape.cols, row);
    for (std::uint64_t c = 0; c < row.size(); ++c) {
      if (std::isfinite(row[c])) continue;
      if (++count == 1) where = fmt::format("row {}, column {}: {}", r, c, row[c]);
    }
  }
  if (count == 0) return;  // it shares a global scale with the one that has them
  const auto& file = plan_.checkpoint->files()[linear.weight->file].path;
  const std::lock_guard lock(bad_mutex_);
  bad_weights_.push_back(fmt::format("{} in {} has {} weight{} NaN or infinite (first at {})", linear.weight->name,
                                     file.string(), count, count == 1 ? " that is" : "s that are", where));
}

void BatchRunner::quantize_slice(Job& job, const PlannedLinear& linear, Slice& slice) {
  const Scheme& scheme = plan_.groups[linear.scheme].scheme;
  Scratch& scratch = thread_scratch();
  scratch.rows.assign(slice.count, ErrorSums{});
  const QuantArgs args = weight_args(plan_, linear);
  const ScaleGrid grid = scale_grid(args, slice.count, linear.shape.cols);
  slice.group_signal.assign(grid.cols, 0.0);
  slice.group_noise.assign(grid.cols, 0.0);
  const TensorView rows = plan_.checkpoint->view(*linear.weight).slice_rows(slice.first, slice.count);
  const Layout& layout = layout_for(plan_, linear);
  const DType scale_type = layout.scale_dtype(args, linear.shape.dtype);
  plan_.checkpoint->will_read(rows);
  TensorParams params = job.params;
  params.first_row = slice.first;
  read_sensitivities(plan_, linear, slice.first, slice.count, scratch.importance);
  const SliceErrors errors{scratch.rows, slice.group_signal, slice.group_noise};
  const Quantizer& quantizer = quantizer_of(linear);
  if (job.pruned.values.empty()) {
    quantizer.quantize_rows(rows, args, scale_type, params, scratch.importance, scratch.quantized, errors);
  } else {
    const TensorView kept = f32_view(job.pruned.values, linear.shape.rows, linear.shape.cols);
    quantizer.quantize_rows(kept.slice_rows(slice.first, slice.count), args, scale_type, params, scratch.importance,
                            scratch.quantized, {});
    put_mask(job.pruned.mask, slice.first, scratch.quantized);
    slice.violations = check_pruned(linear, scratch.quantized);
    measure_rows(rows, scratch.quantized, errors);  // against what the weights were before
  }
  plan_.checkpoint->done_reading(rows);
  ShardSink sink(*writers_[job.key.first], *job.item);
  layout.write_rows(scheme, linear.shape, slice.first, scratch.quantized, sink);
  for (std::size_t r = 0; r < scratch.rows.size(); ++r) {
    const ErrorSums& sums = scratch.rows[r];
    // Rows of different slices are different elements: no two threads write the same one.
    job.result.row_nmse[slice.first + r] = nmse_of(sums.signal, sums.noise);
    slice.sums += sums;
  }
  for (const float scale : scratch.quantized.scales) {
    slice.scale_min = std::min(slice.scale_min, std::fabs(static_cast<double>(scale)));
    slice.scale_max = std::max(slice.scale_max, std::fabs(static_cast<double>(scale)));
  }
}

void BatchRunner::copy_slice(const Job& job, const PlannedCopy& copy, Slice& slice) {
  const TensorView view = plan_.checkpoint->view(*copy.tensor);
  const auto part = view.bytes.subspan(slice.first, slice.count);
  writers_[job.key.first]->write(job.item->places.front(), slice.first, part);
  plan_.checkpoint->done_reading({view.dtype, view.shape, part});
}

void BatchRunner::run_slice(Job& job, Slice& slice) {
  const auto start = std::chrono::steady_clock::now();
  if (!job.item->quantized) {
    copy_slice(job, plan_.copies[job.item->index], slice);
  } else {
    const PlannedLinear& linear = plan_.linears[job.item->index];
    try {
      quantize_slice(job, linear, slice);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::numerical) throw;
      // The other tensors are still looked at, so that all bad ones are named at once.
      if (!job.bad.exchange(true)) note_bad_weights(linear);
      return;
    }
  }
  slice.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  slice.finished = true;
}

std::uint64_t BatchRunner::source_bytes(const Job& job, const Slice& slice) const {
  if (!job.item->quantized) return slice.count;
  const PlannedLinear& linear = plan_.linears[job.item->index];
  return linear.weight->bytes / linear.shape.rows * slice.count;
}

void BatchRunner::start_jobs(const std::vector<ItemKey>& keys, const std::function<void()>& tick,
                             std::vector<Job>& jobs, std::vector<Slice>& slices) {
  for (std::size_t i = 0; i < keys.size() && !stopped(); ++i) {
    tick();
    Job& job = jobs[i];
    job.key = keys[i];
    job.item = &plan_.shards[keys[i].first].items[keys[i].second];
    if (job.item->quantized) {
      const PlannedLinear& linear = plan_.linears[job.item->index];
      job.result.row_nmse.resize(linear.shape.rows);
      try {
        job.pruned = pruned_weight(linear, job.result);
        job.params = params_of(linear, job.pruned);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::numerical) throw;
        note_bad_weights(linear);
        job.bad = true;
        continue;
      }
    }
    add_slices(i, *job.item, slices);
  }
}

std::map<ItemKey, ItemResult> BatchRunner::collect(std::vector<Job>& jobs, const std::vector<Slice>& slices) {
  std::vector<bool> complete(jobs.size(), true);
  std::vector<std::vector<double>> signal(jobs.size());
  std::vector<std::vector<double>> noise(jobs.size());
  for (Job& job : jobs) job.result.scale_min = std::numeric_limits<double>::infinity();
  for (const Slice& slice : slices) {
    ItemResult& result = jobs[slice.job].result;
    complete[slice.job] = complete[slice.job] && slice.finished;
    result.sums += slice.sums;
    result.scale_min = std::min(result.scale_min, slice.scale_min);
    result.scale_max = std::max(result.scale_max, slice.scale_max);
    result.seconds += slice.seconds;
    result.violations += slice.violations;
    merge_slice(slice.group_signal, signal[slice.job]);
    merge_slice(slice.group_noise, noise[slice.job]);
  }
  std::map<ItemKey, ItemResult> finished;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    if (job.item == nullptr || !complete[i] || job.bad) continue;
    if (!std::isfinite(job.result.scale_min)) job.result.scale_min = 0;
    for (std::size_t g = 0; g < signal[i].size(); ++g)
      job.result.group_nmse.push_back(nmse_of(signal[i][g], noise[i][g]));
    finished.emplace(job.key, std::move(job.result));
  }
  return finished;
}

std::map<ItemKey, ItemResult> BatchRunner::run(const std::vector<ItemKey>& keys, std::atomic<std::uint64_t>& done,
                                               const std::function<void()>& tick) {
  std::vector<Job> jobs(keys.size());
  std::vector<Slice> slices;
  start_jobs(keys, tick, jobs, slices);
  const auto task = [&](std::size_t s) {
    Job& job = jobs[slices[s].job];
    if (stopped() || job.bad) return;
    run_slice(job, slices[s]);
    done += source_bytes(job, slices[s]);
  };
  pool_.run(slices.size(), task, tick);
  return collect(jobs, slices);
}

}  // namespace quant
