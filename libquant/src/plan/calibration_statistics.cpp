// Statistics from a file in the place of a pass over calibration data, and the wish to keep those of a pass.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "hash.h"
#include "plan/calibration_work.h"
#include "quant/error.h"

namespace quant {
namespace {

std::string hash_of_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::vector<char> buffer(1U << 20U);
  Hash hash;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    hash.add(buffer.data(), static_cast<std::size_t>(in.gcount()));
  }
  if (in.bad() || !in.eof()) throw Error(ErrorCode::io, file.string() + ": cannot be read to its end");
  return hash.hex();
}

std::string missing_parts(const CalibrationNeeds& needs, const CalibrationNeeds& found) {
  std::string text;
  const auto add = [&](bool needed, bool there, const char* name) {
    if (needed && !there) text += (text.empty() ? "" : ", ") + std::string(name);
  };
  add(needs.absmax, found.absmax, "absmax");
  add(needs.mean_abs, found.mean_abs, "mean_abs");
  add(needs.mean, found.mean, "mean");
  add(needs.square, found.square || found.gram, "square");
  add(needs.gram, found.gram, "a Gram matrix");
  add(needs.rows, found.rows, "rows");
  return text;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string text = names.front();
  for (std::size_t i = 1; i < std::min<std::size_t>(names.size(), 3); ++i) text += ", " + names[i];
  return names.size() > 3 ? text + fmt::format(" and {} more", names.size() - 3) : text;
}

void check_model(Plan& plan, const StatisticsOrigin& origin, const std::string& file) {
  if (origin.model_hash.empty()) {
    plan.warnings.push_back(file + " does not say which model it is of; only names and shapes were compared");
  } else if (origin.model_hash != model_fingerprint(*plan.checkpoint)) {
    plan.problems.push_back(
        fmt::format("{} holds statistics of another model{}, not of {}; collect them of this one (quant run with "
                    "--calibration FILE --save-statistics FILE), or name theirs with --model",
                    file, origin.model.empty() ? "" : " (" + origin.model + ")", plan.checkpoint->location().string()));
  }
}

// Transforms and caches look at more than the inputs of linears.
void check_recipe(Plan& plan, const CalibrationWork& work, const char* what) {
  for (std::size_t m = 0; m < work.algorithms.size(); ++m) {
    const RecipeModifier& modifier = plan.recipe.modifiers[m];
    if (work.algorithms[m].transform != nullptr) {
      plan.problems.push_back(
          fmt::format("{}: {} rescales channels, and statistics of the rescaled model are not those "
                      "of the model; {} works with recipes without it",
                      modifier.where.to_string(), modifier.type, what));
    }
  }
}

void check_unit(Plan& plan, const Program& program, const InputUnit& unit, const StatisticsFileReader& file,
                std::vector<std::string>& absent, std::uint64_t& tokens) {
  const std::string name = plan.options.calibration.statistics.string();
  const std::uint64_t width = program.values[static_cast<std::size_t>(unit.value)].width;
  for (const std::string& module : modules_of(plan, unit)) {
    if (!file.has(module)) {
      absent.push_back(module);
      continue;
    }
    const StatisticsSummary found = file.describe(module);
    tokens = std::max(tokens, found.tokens);
    if (found.cols != width) {
      plan.problems.push_back(
          fmt::format("statistics: {} has {} columns in {}, {} in the model", module, found.cols, name, width));
    } else if (const std::string parts = missing_parts(unit.needs, found.parts); !parts.empty()) {
      plan.problems.push_back(fmt::format("statistics: {} lacks {} of {}", name, parts, module));
    }
  }
}

}  // namespace

std::vector<std::string> modules_of(const Plan& plan, const InputUnit& unit) {
  std::vector<std::string> modules;
  for (const WorkLinear& entry : unit.linears) modules.push_back(plan.linears[entry.linear].shape.module);
  return modules;
}

InputUnit unit_of(const WorkSite& site) {
  InputUnit unit;
  unit.value = site.site.value;
  unit.op = site.site.readers.front().op;
  unit.expert = site.site.expert;
  unit.needs = site.needs;
  unit.asked = site.needs;
  return unit;
}

InputStatistics only(InputStatistics statistics, const CalibrationNeeds& parts) {
  if (!parts.absmax) statistics.absmax.clear(), statistics.minimum.clear(), statistics.maximum.clear();
  if (!parts.mean_abs) statistics.mean_abs.clear();
  if (!parts.mean) statistics.mean.clear();
  if (!parts.square) statistics.square.clear();
  if (!parts.gram) statistics.gram.clear();
  if (!parts.cross_gram) statistics.cross_gram.clear();
  if (!parts.residual) statistics.residual.clear();
  if (!parts.rows) statistics.rows.clear();
  return statistics;
}

namespace plan_detail {

std::shared_ptr<const StatisticsFileReader> open_statistics(Plan& plan, CalibrationPlan& summary) {
  const std::filesystem::path& file = plan.options.calibration.statistics;
  if (!plan.options.calibration.file.empty()) {
    plan.problems.emplace_back("calibration data and a file of statistics exclude each other: give one of them");
    return nullptr;
  }
  try {
    auto reader = std::make_shared<const StatisticsFileReader>(file);
    check_model(plan, reader->origin(), file.string());
    summary.imported = true;
    summary.source = file.string();
    summary.hash = hash_of_file(file);
    summary.data = std::filesystem::path(reader->origin().data).filename().string();
    summary.data_hash = reader->origin().data_hash;
    summary.statistics_tool = reader->origin().tool_version;
    return reader;
  } catch (const Error& error) {
    add_problem(plan, "statistics: ", error);
    plan.input_error = std::make_shared<const Error>(error);
    return nullptr;
  }
}

void check_imported(Plan& plan, const CalibrationWork& work, CalibrationPlan& summary) {
  check_recipe(plan, work, "--statistics");
  if (work.second_stream) {  // of --block-errors the plan has spoken
    plan.problems.emplace_back(
        "statistics: asymmetric calibration and compensation of the residual stream run the unquantized model beside "
        "the quantized one; give --calibration FILE for them, or switch them off (asymmetric: 0, residual: 0)");
  }
  if (!plan.caches.empty()) {
    plan.problems.emplace_back(
        "statistics: the scales of a kv_cache_scheme need the model's keys and values; give --calibration FILE");
  }
  std::vector<std::string> absent;
  try {
    for (const BlockWork& block : work.blocks) {
      for (const Sweep& sweep : block.sweeps) {
        for (const InputUnit& unit : sweep.units) {
          check_unit(plan, *block.program, unit, *work.statistics, absent, summary.tokens);
        }
      }
    }
  } catch (const Error& error) {
    plan.problems.push_back(std::string("statistics: ") + error.what());
  }
  if (!absent.empty()) {
    plan.problems.push_back(
        fmt::format("statistics: {} has none of {}; it was made with a recipe that leaves them out, or is of another "
                    "model",
                    plan.options.calibration.statistics.string(), list_of(absent)));
  }
}

void check_saved(Plan& plan, const CalibrationWork& work) {
  const std::filesystem::path& file = plan.options.calibration.save_statistics;
  if (work.statistics != nullptr || !plan.options.calibration.statistics.empty()) {
    plan.problems.emplace_back("statistics that come from a file need not be saved again");
  }
  check_recipe(plan, work, "--save-statistics");
  // Missing folders are made by the run.
  std::error_code failed;
  std::filesystem::path folder = file.parent_path();
  while (!folder.empty() && !std::filesystem::exists(folder, failed)) folder = folder.parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder, failed)) {
    plan.problems.push_back(
        fmt::format("statistics cannot be saved to {}: {} is no directory", file.string(), folder.string()));
  } else if (std::filesystem::is_directory(file, failed)) {
    plan.problems.push_back(fmt::format("statistics cannot be saved to {}: it is a directory", file.string()));
  }
}

}  // namespace plan_detail
}  // namespace quant
