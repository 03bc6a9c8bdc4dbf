// Finds the tensors of a checkpoint that hold NaN or infinity.
#pragma once

#include <atomic>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/model_program.h"
#include "thread_pool.h"

namespace quant {

/// Adds the names of all tensors that a program reads; an empty name may be among them.
void add_tensors_read(const Program& program, std::set<std::string>& names);
/// Those of the names that the checkpoint stores.
std::vector<const TensorInfo*> tensors_named(const Checkpoint& checkpoint, const std::set<std::string>& names);
/// Those that can hold NaN or infinity: weights, and scales of packed ones.
std::vector<const TensorInfo*> floating_tensors(const Checkpoint& checkpoint);

/// Reads all `tensors` once. One sentence, and line, for each that holds values which are not finite, with their number
/// and the first one's place; at most 8, then how many more. Empty if all values are finite. `tick` as of
/// ThreadPool::run. Throws Error{interrupted} if `stop` was set.
std::string describe_non_finite(const Checkpoint& checkpoint, const std::vector<const TensorInfo*>& tensors,
                                ThreadPool& pool, const std::function<void()>& tick, const std::atomic<bool>* stop);

}  // namespace quant
