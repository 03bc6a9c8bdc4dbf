#include "pipeline/statistics_keeper.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "calibration/statistics_layout.h"
#include "output/files.h"
#include "quant/error.h"
#include "quant/version.h"

namespace quant {
namespace {

constexpr const char* kPrefix = ".quant-statistics.";
constexpr std::ptrdiff_t kNamed = 8;

bool same_device(const std::filesystem::path& a, const std::filesystem::path& b) {
  struct stat first {};
  struct stat second {};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev;
}

// Folders that a check needs, removed again where they were not there.
class NewFolders {
 public:
  explicit NewFolders(const std::filesystem::path& folder) {
    std::error_code failed;
    for (auto at = folder; !at.empty() && !std::filesystem::exists(at, failed); at = at.parent_path()) {
      made_.push_back(at);
      if (at == at.parent_path()) break;
    }
    std::filesystem::create_directories(folder, failed);
    if (!failed) return;
    remove();
    throw_io_error("statistics cannot be saved: cannot make the folder", folder, failed.value());
  }
  ~NewFolders() { remove(); }
  NewFolders(const NewFolders&) = delete;
  NewFolders& operator=(const NewFolders&) = delete;

 private:
  void remove() const {
    std::error_code ignored;
    for (const auto& folder : made_) std::filesystem::remove(folder, ignored);
  }

  std::vector<std::filesystem::path> made_;  // the innermost first
};

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : ".";
}

bool all_finite(const InputStatistics& statistics) {
  const auto finite = [](const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  };
  return finite(statistics.gram) &&
         std::all_of(std::begin(calibration::kStatisticsParts), std::end(calibration::kStatisticsParts),
                     [&](const auto& part) { return finite(statistics.*part.values); });
}

std::string megabytes(std::uint64_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6); }

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

const StatisticsOrigin& StatisticsKeeper::origin() {
  if (!origin_) {
    origin_ = {std::filesystem::path(plan_.checkpoint->location()).filename().string(),
               std::filesystem::path(plan_.calibration->source).filename().string(), plan_.calibration->hash,
               std::string(version()), model_fingerprint(*plan_.checkpoint)};
  }
  return *origin_;
}

void StatisticsKeeper::require_place(bool resumed) const {
  if (!wanted()) return;
  const std::filesystem::path& file = plan_.options.calibration.save_statistics;
  const std::filesystem::path partial = file.string() + ".partial";
  const std::filesystem::path folder = folder_of(file);
  const NewFolders folders(folder);
  std::error_code failed;
  const bool there = std::filesystem::exists(partial, failed);
  errno = 0;
  const bool writable = std::ofstream(partial, std::ios::binary | std::ios::app).is_open();
  const int reason = errno;
  if (!writable) throw_io_error("statistics cannot be saved", partial, reason);
  if (!there) std::filesystem::remove(partial, failed);
  const auto space = std::filesystem::space(folder, failed);
  if (failed || resumed) return;
  // Where both are on one file system, the output's share was looked for, but not kept.
  std::uint64_t needed = plan_.work->saved_bytes;
  if (same_device(folder, directory_)) needed += plan_.output_bytes + plan_.calibration->disk_bytes;
  if (space.available >= needed) return;
  throw Error(ErrorCode::io,
              folder.string() + " has " + megabytes(space.available) + " free, statistics" +
                  (needed > plan_.work->saved_bytes ? " and output need up to " : " need up to ") + megabytes(needed),
              "free some space, save them elsewhere, or leave --save-statistics out");
}

void StatisticsKeeper::resume(std::size_t blocks) const {
  for (std::size_t b = 0; !wanted() && b < plan_.work->blocks.size(); ++b) {
    if (!std::filesystem::exists(file_of(b))) continue;
    throw Error(ErrorCode::io,
                directory_.string() + " was begun with --save-statistics: what it has kept would be lost without it",
                "give --save-statistics FILE again, or start over with --overwrite-partial");
  }
  for (std::size_t b = 0; wanted() && b < blocks; ++b) {
    if (!has_units(b) || std::filesystem::exists(file_of(b))) continue;
    throw Error(ErrorCode::io,
                directory_.string() + " was begun without keeping statistics: those of finished blocks are lost",
                "leave --save-statistics out, or start over with --overwrite-partial");
  }
}

void StatisticsKeeper::add(std::size_t block, const InputUnit& unit, InputStatistics& statistics) {
  if (!wanted()) return;
  if (writer_ == nullptr) writer_ = std::make_unique<StatisticsFileWriter>(file_of(block), origin());
  // --statistics refuses recipes that read these: they depend on the recipe of the run.
  std::vector<float> cross_gram = std::exchange(statistics.cross_gram, {});
  std::vector<float> residual = std::exchange(statistics.residual, {});
  // Solvers have their ways around values that are not finite; a file of them could not be read.
  if (all_finite(statistics)) writer_->write(modules_of(plan_, unit), statistics);
  statistics.cross_gram = std::move(cross_gram);
  statistics.residual = std::move(residual);
}

void StatisticsKeeper::close_block() {
  if (writer_ != nullptr) writer_->finish();
  writer_.reset();
}

std::string StatisticsKeeper::finish() {
  if (!wanted()) return {};
  std::vector<std::string> left_out;
  const std::filesystem::path& file = plan_.options.calibration.save_statistics;
  std::error_code failed;
  std::filesystem::create_directories(folder_of(file), failed);
  if (failed) throw_io_error("cannot make the folder", folder_of(file), failed.value());
  StatisticsFileWriter all(file, origin());
  for (std::size_t b = 0; b < plan_.work->blocks.size(); ++b) {
    if (!has_units(b)) continue;
    const StatisticsFileReader kept(file_of(b));
    for (const Sweep& sweep : plan_.work->blocks[b].sweeps) {
      for (const InputUnit& unit : sweep.units) {
        const std::vector<std::string> modules = modules_of(plan_, unit);
        if (kept.has(modules.front())) {
          all.write(modules, kept.read(modules.front()));
        } else {
          left_out.insert(left_out.end(), modules.begin(), modules.end());
        }
      }
    }
  }
  all.finish();
  if (left_out.empty()) return {};
  const auto named = left_out.begin() + std::min<std::ptrdiff_t>(kNamed, std::ssize(left_out));
  return fmt::format("{} lacks the statistics of {} linear{}, which are not finite: {}{}", file.string(),
                     left_out.size(), left_out.size() > 1 ? "s" : "", fmt::join(left_out.begin(), named, ", "),
                     named == left_out.end() ? "" : ", ...");
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
