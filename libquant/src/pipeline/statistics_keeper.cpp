#include "pipeline/statistics_keeper.h"

#include <algorithm>
#include <system_error>
#include <vector>

#include "quant/error.h"
#include "quant/version.h"

namespace quant {
namespace {

constexpr const char* kPrefix = ".quant-statistics.";

}  // namespace

StatisticsKeeper::StatisticsKeeper(const Plan& plan, std::filesystem::path directory)
    : plan_(plan), directory_(std::move(directory)) {}

std::filesystem::path StatisticsKeeper::file_of(std::size_t block) const {
  return directory_ / (kPrefix + std::to_string(block) + ".h5");
}

bool StatisticsKeeper::has_units(std::size_t block) const {
  const auto& sweeps = plan_.work->blocks[block].sweeps;
  return std::any_of(sweeps.begin(), sweeps.end(), [](const Sweep& sweep) { return !sweep.units.empty(); });
}

StatisticsOrigin StatisticsKeeper::origin() const {
  return {std::filesystem::path(plan_.checkpoint->location()).filename().string(),
          std::filesystem::path(plan_.calibration->source).filename().string(), plan_.calibration->hash,
          std::string(version()), model_fingerprint(*plan_.checkpoint)};
}

void StatisticsKeeper::resume(std::size_t blocks) const {
  for (std::size_t b = 0; wanted() && b < blocks; ++b) {
    if (!has_units(b) || std::filesystem::exists(file_of(b))) continue;
    throw Error(ErrorCode::io,
                directory_.string() + " was begun without keeping statistics: those of finished blocks are lost",
                "leave --save-statistics out, or start over with --overwrite-partial");
  }
}

void StatisticsKeeper::add(std::size_t block, const InputUnit& unit, const InputStatistics& statistics) {
  if (!wanted()) return;
  if (writer_ == nullptr) writer_ = std::make_unique<StatisticsFileWriter>(file_of(block), origin());
  writer_->write(modules_of(plan_, unit), statistics);
}

void StatisticsKeeper::close_block() {
  if (writer_ != nullptr) writer_->finish();
  writer_.reset();
}

void StatisticsKeeper::finish() const {
  if (!wanted()) return;
  StatisticsFileWriter all(plan_.options.calibration.save_statistics, origin());
  for (std::size_t b = 0; b < plan_.work->blocks.size(); ++b) {
    if (!has_units(b)) continue;
    const StatisticsFileReader kept(file_of(b));
    for (const Sweep& sweep : plan_.work->blocks[b].sweeps) {
      for (const InputUnit& unit : sweep.units) {
        const std::vector<std::string> modules = modules_of(plan_, unit);
        all.write(modules, kept.read(modules.front()));
      }
    }
  }
  all.finish();
}

void StatisticsKeeper::remove(const std::filesystem::path& directory) {
  std::error_code ignored;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.path().filename().string().starts_with(kPrefix)) files.push_back(entry.path());
  }
  for (const auto& file : files) std::filesystem::remove(file, ignored);
}

}  // namespace quant
