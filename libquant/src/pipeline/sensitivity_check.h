// Looks at all sensitivities before a run begins: a bad one found on the way would cost what was done before.
#pragma once

#include <atomic>
#include <functional>

#include "quant/plan.h"
#include "thread_pool.h"

namespace quant {

/// Reads, once, the sensitivities of all linears. Throws Error{numerical} naming file, tensor, place and value of the
/// first number of each tensor that is negative, NaN or infinite (at most 8 tensors), and Error{interrupted} if `stop`
/// was set. `tick` as of ThreadPool::run.
void require_sound_sensitivities(const Plan& plan, ThreadPool& pool, const std::function<void()>& tick,
                                 const std::atomic<bool>* stop);

}  // namespace quant
