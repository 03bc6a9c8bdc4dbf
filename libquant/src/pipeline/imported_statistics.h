// Statistics from a file in the place of a pass over calibration data.
#pragma once

#include <atomic>
#include <functional>

#include "plan/calibration_work.h"

namespace quant {

/// What a pass would have left for the solvers of a unit. Throws Error{corrupt_file} for values that cannot be used,
/// and if the file changed since it was planned with.
InputStatistics imported_statistics(const Plan& plan, const Program& program, const InputUnit& unit);

/// Reads all that the run will read, once, before any work is done. Throws Error{corrupt_file} naming the inputs that
/// cannot be used, and Error{interrupted} if `stop` was set.
void require_sound_statistics(const Plan& plan, const std::function<void()>& tick, const std::atomic<bool>* stop);

}  // namespace quant
