// What `quant inspect` found, as text and as JSON.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "output.h"
#include "quant/model.h"
#include "quant/statistics.h"

namespace quant::cli {

struct TypeTotals {
  std::size_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};

/// Quantized linears of one scheme.
struct SchemeTotals {
  std::string format;
  std::size_t linears = 0;
  std::uint64_t weights = 0;
  std::uint64_t bytes = 0;
};

struct Inspection {
  const Checkpoint* checkpoint = nullptr;
  const LogicalTensors* tensors = nullptr;  ///< null where no layout reads the quantization
  std::string unreadable;                   ///< why, then
  std::uint64_t parameters = 0;             ///< of the model, packed weights counted as weights
  std::map<std::string, TypeTotals> types;  ///< by name, as stored
  std::map<std::string, TypeTotals> classes;
  std::map<std::string, SchemeTotals> schemes;
  std::string kv_cache;                ///< how keys and values are quantized, or empty
  std::size_t caches = 0;              ///< attention modules with stored scales for that
  std::set<std::string> cache_scales;  ///< the tensors that hold them
  std::vector<std::string> tied;       ///< modules without a tensor of their own
  std::vector<TensorStatistics> statistics;
  bool with_statistics = false;
  bool with_outliers = false;
  bool with_tensors = false;
};

Json inspect_json(const Inspection& inspection);
std::string inspect_text(const Inspection& inspection);
/// Tensors with NaN or infinite values, one sentence each.
std::vector<std::string> bad_tensors(const Inspection& inspection);

}  // namespace quant::cli
