#include "pipeline/imported_statistics.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "quant/error.h"

namespace quant {
namespace {

constexpr std::size_t kNamed = 8;

bool has_parts(const InputStatistics& found, const CalibrationNeeds& needs, std::uint64_t width) {
  const bool ranges = !found.absmax.empty() && !found.minimum.empty() && !found.maximum.empty();
  return found.cols == width && (!needs.absmax || ranges) && (!needs.mean_abs || !found.mean_abs.empty()) &&
         (!needs.mean || !found.mean.empty()) && (!needs.square || !found.square.empty()) &&
         (!needs.gram || !found.gram.empty()) && (!needs.rows || !found.rows.empty());
}

}  // namespace

InputStatistics imported_statistics(const Plan& plan, const Program& program, const InputUnit& unit) {
  const std::string& module = plan.linears[unit.linears.front().linear].shape.module;
  InputStatistics found = plan.work->statistics->read(module, unit.asked);
  if (unit.asked.square && found.square.empty()) {  // files of earlier versions have Gram matrices only
    CalibrationNeeds gram;
    gram.gram = true;
    const InputStatistics instead = plan.work->statistics->read(module, gram);
    for (std::uint64_t c = 0; !instead.gram.empty() && c < found.cols; ++c) {
      found.square.push_back(instead.gram[c * found.cols + c]);
    }
  }
  if (!has_parts(found, unit.asked, program.values[static_cast<std::size_t>(unit.value)].width)) {
    throw Error(ErrorCode::corrupt_file,
                plan.options.calibration.statistics.string() + ": the statistics of " + module +
                    " changed after the run was planned",
                "start over with --overwrite-partial");
  }
  return found;
}

void require_sound_statistics(const Plan& plan, const std::function<void()>& tick, const std::atomic<bool>* stop) {
  std::vector<std::string> bad;
  for (const BlockWork& block : plan.work->blocks) {
    for (const Sweep& sweep : block.sweeps) {
      for (const InputUnit& unit : sweep.units) {
        if (stop != nullptr && *stop) {
          throw Error(ErrorCode::interrupted, "stopped while the statistics were checked");
        }
        try {
          imported_statistics(plan, *block.program, unit);
        } catch (const Error& error) {
          // That a disk fails says nothing of the values.
          if (error.code() != ErrorCode::corrupt_file) throw;
          bad.emplace_back(error.what());
        }
        tick();
      }
    }
  }
  if (bad.empty()) return;
  const std::size_t named = std::min(bad.size(), kNamed);
  std::string text = fmt::format("{}", fmt::join(bad.begin(), bad.begin() + static_cast<std::ptrdiff_t>(named), "\n"));
  if (bad.size() > named) text += fmt::format("\nand {} more inputs", bad.size() - named);
  throw Error(ErrorCode::corrupt_file, text, "collect the statistics anew (--calibration FILE --save-statistics FILE)");
}

}  // namespace quant
