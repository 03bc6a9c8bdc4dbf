// Keeps the statistics of a pass for later use: a file per block, durable with the block, one file in the end.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "plan/calibration_work.h"

namespace quant {

class StatisticsKeeper {
 public:
  /// `directory`: the partial directory. Keeps nothing unless the plan asks for it.
  StatisticsKeeper(const Plan& plan, std::filesystem::path directory);

  /// Throws Error{io} if the file cannot be made where it is wanted, or (in a new run) there is no room for it. Leaves
  /// nothing there: folders that were missing are removed again, and made by finish().
  void require_place(bool resumed) const;
  /// Throws Error{io} if an earlier process finished `blocks` blocks without keeping their statistics, or kept some
  /// that this run does not ask for.
  void resume(std::size_t blocks) const;
  /// Keeps the parts that --statistics can use: those that follow from the input alone. Statistics with a value that is
  /// not finite are left out, since no file may hold them.
  void add(std::size_t block, const InputUnit& unit, InputStatistics& statistics);
  /// Makes what was added for a block durable.
  void close_block();
  /// Joins the files of all blocks into the one that the user asked for. Returns a warning that names what was left
  /// out, or an empty text.
  std::string finish();
  /// Deletes the files of blocks.
  static void remove(const std::filesystem::path& directory);

 private:
  bool wanted() const { return plan_.work->save_statistics; }
  std::filesystem::path file_of(std::size_t block) const;
  bool has_units(std::size_t block) const;
  const StatisticsOrigin& origin();

  const Plan& plan_;
  std::filesystem::path directory_;
  std::optional<StatisticsOrigin> origin_;        // made once: it reads a part of every tensor
  std::unique_ptr<StatisticsFileWriter> writer_;  // of the block in work
};

}  // namespace quant
