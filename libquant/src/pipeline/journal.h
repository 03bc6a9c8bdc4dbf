// What a run has finished, durable item by item, so that it can be resumed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "output/files.h"
#include "quant/metrics.h"
#include "quant/plan.h"
#include "quant/report.h"

namespace quant {

/// Place of an item: (shard, item within the shard).
using ItemKey = std::pair<std::size_t, std::size_t>;

/// What is known of a finished item beyond its bytes. Copied tensors have only default values.
struct ItemResult {
  ErrorSums sums;
  double scale_min = 0;
  double scale_max = 0;
  double seconds = 0;
  std::vector<float> row_nmse;
  std::vector<float> group_nmse;
  std::uint64_t violations = 0;  ///< groups of an N:M pattern with more than N weights
  std::vector<std::string> notes;
  std::optional<CalibrationRecord> calibration;
};

/// Differs if the run's output would differ: a hash of the plan's identity, and size and time of every input file.
std::string run_fingerprint(const Plan& plan);

/// Appends to two files of the partial directory: lines of JSON, and float arrays that they point into. A line counts
/// only if it is complete, so a kill at any moment loses at most the items not yet recorded.
class Journal {
 public:
  /// Reads the finished items of the journal of `directory`, or starts one. Throws Error{io} if it belongs to another
  /// plan or input, Error{corrupt_file} if it does not fit `plan`.
  Journal(const std::filesystem::path& directory, const Plan& plan);

  const std::map<ItemKey, ItemResult>& finished() const { return finished_; }
  /// Records items whose bytes are durable. Itself durable on return. Called from one thread at a time.
  void record(const std::vector<std::pair<ItemKey, const ItemResult*>>& items);
  /// Deletes the journal's files from a directory.
  static void remove(const std::filesystem::path& directory);
  static bool exists(const std::filesystem::path& directory);

 private:
  void read(const Plan& plan);
  void parse_line(const std::string& line, const Plan& plan);

  std::filesystem::path lines_path_;
  std::filesystem::path arrays_path_;
  Descriptor lines_;
  Descriptor arrays_;
  std::uint64_t arrays_size_ = 0;
  std::map<ItemKey, ItemResult> finished_;
};

}  // namespace quant
