// Computes and writes a batch of items: tensor-wide values first, then slices of rows in parallel.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/journal.h"
#include "plan/algorithm_set.h"
#include "plan/pruning.h"
#include "quant/plan.h"
#include "thread_pool.h"

namespace quant {

class BatchRunner {
 public:
  /// `writers`: one per shard, open. All arguments must outlive the object.
  BatchRunner(const Plan& plan, const std::vector<std::unique_ptr<ContainerWriter>>& writers, ThreadPool& pool,
              const std::atomic<bool>* stop);

  /// Works through `keys`. Items that could not be finished because of the stop flag are missing in the result. `done`
  /// is raised by the source bytes of each finished piece; `tick` is called about ten times a second.
  std::map<ItemKey, ItemResult> run(const std::vector<ItemKey>& keys, std::atomic<std::uint64_t>& done,
                                    const std::function<void()>& tick);

  /// Weights that are NaN or infinite, one sentence per tensor, found so far.
  const std::vector<std::string>& bad_weights() const { return bad_weights_; }

 private:
  struct Job;
  struct Slice;
  PrunedWeight pruned_weight(const PlannedLinear& linear, ItemResult& result) const;
  TensorParams params_of(const PlannedLinear& linear, const PrunedWeight& pruned);
  const Quantizer& quantizer_of(const PlannedLinear& linear) const;
  void add_slices(std::size_t job, const PlannedItem& item, std::vector<Slice>& slices) const;
  void start_jobs(const std::vector<ItemKey>& keys, const std::function<void()>& tick, std::vector<Job>& jobs,
                  std::vector<Slice>& slices);
  void run_slice(Job& job, Slice& slice);
  void quantize_slice(Job& job, const PlannedLinear& linear, Slice& slice);
  void copy_slice(const Job& job, const PlannedCopy& copy, Slice& slice);
  std::uint64_t source_bytes(const Job& job, const Slice& slice) const;
  static std::map<ItemKey, ItemResult> collect(std::vector<Job>& jobs, const std::vector<Slice>& slices);
  void note_bad_weights(const PlannedLinear& linear);
  bool stopped() const { return stop_ != nullptr && stop_->load(std::memory_order_relaxed); }

  const Plan& plan_;
  const std::vector<std::unique_ptr<ContainerWriter>>& writers_;
  ThreadPool& pool_;
  const std::atomic<bool>* stop_;
  std::vector<ModifierAlgorithm> algorithms_;
  std::map<int, float> fused_scales_;  // global scale of each fused set
  std::vector<std::string> bad_weights_;
  std::mutex bad_mutex_;
};

}  // namespace quant
