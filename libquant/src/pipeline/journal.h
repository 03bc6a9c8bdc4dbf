// What a run has finished, durable item by item, so that it can be resumed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "quant/metrics.h"
#include "quant/plan.h"

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
};

/// Text that differs if the run's output would differ: the plan's identity, and size and time of every input file.
std::string run_fingerprint(const Plan& plan);

/// Appends to two files of the partial directory: lines of JSON, and float arrays that they point into. A line counts
/// only if it is complete, so a kill at any moment loses at most the items not yet recorded.
class Journal {
 public:
  /// Starts a journal, or with `resume` reads the finished items of one. Locks it against a second process. Throws
  /// Error{io} if it belongs to another plan or input, or is in use.
  Journal(const std::filesystem::path& directory, const std::string& fingerprint, bool resume);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  const std::map<ItemKey, ItemResult>& finished() const { return finished_; }
  /// Records items whose bytes are durable. Itself durable on return. Called from one thread at a time.
  void record(const std::vector<std::pair<ItemKey, const ItemResult*>>& items);
  /// Deletes the journal's files.
  void remove();

  static bool exists(const std::filesystem::path& directory);

 private:
  void read(const std::string& fingerprint);
  void parse_line(const std::string& line);

  std::filesystem::path lines_path_;
  std::filesystem::path arrays_path_;
  int lines_ = -1;
  int arrays_ = -1;
  std::uint64_t arrays_size_ = 0;
  std::map<ItemKey, ItemResult> finished_;
};

}  // namespace quant
