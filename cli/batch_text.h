// A batch's plan and its summary, as text and as JSON.
#pragma once

#include <string>

#include "batch_plan.h"
#include "output.h"

namespace quant::cli {

Json batch_plan_json(const JobBatch& batch, const BatchPlan& plan, int threads);
std::string batch_plan_text(const JobBatch& batch, const BatchPlan& plan);
/// "problem: job: ..." and "warning: job: ..." lines for stderr.
std::string batch_remarks(const BatchPlan& plan);
std::string batch_summary_text(const BatchSummary& summary, const BatchPaths& paths);

}  // namespace quant::cli
