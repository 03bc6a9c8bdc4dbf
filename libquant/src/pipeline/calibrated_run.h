// Runs the calibrated part of a plan: block by block, the tokens pass through, linears are coded, and the rest of the
// model sees what they have become.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/committer.h"
#include "pipeline/journal.h"
#include "quant/pipeline.h"
#include "thread_pool.h"

namespace quant {

/// What the calibrated part shares with the rest of a run.
struct CalibratedRunContext {
  const Plan* plan = nullptr;
  std::filesystem::path directory;  ///< the partial directory
  const std::vector<std::unique_ptr<ContainerWriter>>* writers = nullptr;
  ThreadPool* pool = nullptr;
  Committer* committer = nullptr;
  std::map<ItemKey, ItemResult>* results = nullptr;  ///< finished items; those of unfinished blocks are done again
  RunProgress* progress = nullptr;
  std::function<void(const ItemKey&)> done;  ///< an item was written
  std::function<void()> tick;                ///< progress was made
  const std::atomic<bool>* stop = nullptr;
  std::uint64_t* peak_memory = nullptr;          ///< raised to what is measured
  std::vector<std::string>* warnings = nullptr;  ///< for the report
};

/// Whether the item is coded or written by the calibrated part.
bool is_calibrated_item(const Plan& plan, const PlannedItem& item);

/// Does what is left, and returns what the report says of blocks. All items are durable when it returns.
std::vector<BlockReport> run_calibrated(const CalibratedRunContext& context);

}  // namespace quant
