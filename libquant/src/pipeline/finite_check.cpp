#include "pipeline/finite_check.h"

#include <set>
#include <string>
#include <vector>

#include "finite_tensors.h"
#include "quant/error.h"

namespace quant {
namespace {

std::vector<const TensorInfo*> tensors_read(const Plan& plan) {
  const CalibrationWork& work = *plan.work;
  std::set<std::string> names;
  for (const BlockWork& block : work.blocks) {
    if (work.statistics == nullptr) add_tensors_read(*block.program, names);
    for (const std::size_t linear : block.linears) names.insert(plan.linears[linear].weight->name);
  }
  return tensors_named(work.tensors.checkpoint(), names);
}

}  // namespace

void require_finite_weights(const Plan& plan, ThreadPool& pool, const std::function<void()>& tick,
                            const std::atomic<bool>* stop) {
  const std::string text = describe_non_finite(plan.work->tensors.checkpoint(), tensors_read(plan), pool, tick, stop);
  if (text.empty()) return;
  throw Error(ErrorCode::numerical, text,
              plan.work->statistics == nullptr
                  ? "repair the checkpoint; calibration runs the model, and so needs its ignored weights too"
                  : "repair the checkpoint, or add these modules to the recipe's 'ignore'");
}

}  // namespace quant
