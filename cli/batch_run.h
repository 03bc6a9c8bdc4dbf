// Runs a planned batch: children under a budget, claims shared with other processes, outcomes on disk.
#pragma once

#include <cstdint>
#include <functional>

#include "batch_plan.h"
#include "quant/claims.h"

namespace quant::cli {

struct BatchRunOptions {
  std::uint64_t memory = 0;  ///< bytes for all children together; 0: no limit
  int threads = 1;           ///< for all children together
  int jobs = 0;              ///< children at once; 0: as many as fit
  bool retry_failed = false;
  bool wait = true;  ///< for jobs that other processes work on
  bool quiet = false;
  ClaimTimes times;
};

/// Returns true if it was interrupted. What came of the jobs is in their outcomes and in the summary.
bool run_batch(const JobBatch& batch, const BatchPlan& plan, const BatchPaths& paths, const BatchRunOptions& options);

/// Where all jobs stand, with what the plan refused.
BatchSummary batch_summary(const JobBatch& batch, const BatchPlan& plan, const Claims& claims);

}  // namespace quant::cli
