// Calibration statistics in an HDF5 file: to use them for another recipe without a new pass, or to bring them from
// elsewhere. Groups, attributes and datasets: docs/calibration.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quant/calibrated.h"
#include "quant/checkpoint.h"

namespace quant {

inline constexpr std::uint64_t kStatisticsSchemaVersion = 1;

/// What statistics were collected with. For the user and for comparison; texts may be empty.
struct StatisticsOrigin {
  std::string model;            ///< directory or name of the model
  std::string data;             ///< TokenSequences::source
  std::string data_hash;        ///< TokenSequences::hash
  std::string tool_version;     ///< of the program that wrote the file
  std::string model_hash = {};  ///< model_fingerprint of the model
};

/// Differs between models, fine-tuned ones too: a hash of names, types, shapes and first bytes of all tensors.
std::string model_fingerprint(const Checkpoint& checkpoint);

/// What is known of one input without reading it.
struct StatisticsSummary {
  std::uint64_t tokens = 0;
  std::uint64_t cols = 0;
  CalibrationNeeds parts;  ///< what there is; sizes are checked by read()
};

/// Writes one input after the other, so that a large model's statistics need not be in memory together.
class StatisticsFileWriter {
 public:
  /// Makes `<file>.partial`. Throws Error{io}.
  StatisticsFileWriter(std::filesystem::path file, const StatisticsOrigin& origin);
  /// Removes the partial file if finish() was not reached.
  ~StatisticsFileWriter();
  StatisticsFileWriter(const StatisticsFileWriter&) = delete;
  StatisticsFileWriter& operator=(const StatisticsFileWriter&) = delete;

  /// Adds the statistics of the input that all of `modules` read; they are stored once. Of the Gram matrix the upper
  /// triangle is stored. Throws Error{usage} for parts that do not fit `cols`, for no module, and for one that is there
  /// already; Error{io}.
  void write(const std::vector<std::string>& modules, const InputStatistics& statistics);
  /// Makes the file durable and gives it its name. Throws Error{io}.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads statistics module by module. The file is not trusted. May be used by several threads.
class StatisticsFileReader {
 public:
  /// Throws Error{io, corrupt_file}, or Error{unsupported} for a newer schema.
  explicit StatisticsFileReader(std::filesystem::path file);

  const StatisticsOrigin& origin() const { return origin_; }
  const std::vector<std::string>& modules() const { return modules_; }  ///< sorted
  bool has(std::string_view module) const;
  /// Throws Error{usage} if there is no such module, Error{corrupt_file} for parts that do not fit each other or hold
  /// values that are not finite.
  InputStatistics read(const std::string& module) const;
  /// Opens and checks only what `parts` asks for, the ranges with absmax; what is not there stays empty.
  InputStatistics read(const std::string& module, const CalibrationNeeds& parts) const;
  /// Throws as read().
  StatisticsSummary describe(const std::string& module) const;

 private:
  std::filesystem::path file_;
  StatisticsOrigin origin_;
  std::vector<std::string> modules_;
};

/// All at once.
void write_statistics(const std::filesystem::path& file, const StatisticsOrigin& origin,
                      const std::map<std::string, InputStatistics>& statistics);
std::map<std::string, InputStatistics> read_statistics(const std::filesystem::path& file);

}  // namespace quant
