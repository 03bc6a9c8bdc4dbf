// Looks for NaN and infinity before a calibrated run begins: found on the way, they would cost hours.
#pragma once

#include <atomic>
#include <functional>

#include "plan/calibration_work.h"
#include "thread_pool.h"

namespace quant {

/// Reads, once, all tensors that the run's forward pass reads, quantized or not; with statistics from a file, where
/// nothing runs, those that calibrated blocks code. Throws Error{numerical} naming those that hold values which are not
/// finite, with their number and the first one's place, and Error{interrupted} if `stop` was set.
void require_finite_weights(const Plan& plan, ThreadPool& pool, const std::function<void()>& tick,
                            const std::atomic<bool>* stop);

}  // namespace quant
