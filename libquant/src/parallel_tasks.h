// Runs numbered tasks on several threads, with progress, a stop flag and exceptions that leave the parallel region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "quant/logical_tensors.h"

namespace quant {

/// Calls task(i) once for each i < costs.size(), in no order. `costs` are the units that progress counts. The exception
/// of the task with the lowest number is thrown once all threads are out, so that errors do not depend on timing among
/// the tasks that ran. Throws Error{interrupted} if options.stop was set.
void run_tasks(std::span<const std::uint64_t> costs, const ScanOptions& options,
               const std::function<void(std::size_t)>& task);

/// A range of rows of one tensor.
struct RowBlock {
  std::size_t tensor = 0;  ///< place in the list that the blocks were made from
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

/// The blocks of `rows` rows that cover [0, total).
void append_blocks(std::size_t tensor, std::uint64_t total, std::uint64_t rows, std::vector<RowBlock>& blocks);

}  // namespace quant
