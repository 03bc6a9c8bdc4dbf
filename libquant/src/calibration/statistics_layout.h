// The parts of InputStatistics as datasets: what the writer and the reader of statistics files share.
#pragma once

#include <string>
#include <vector>

#include "quant/calibrated.h"

namespace quant::calibration {

/// A part that has one number per channel, or rows of them.
struct StatisticsPart {
  const char* name;
  std::vector<float> InputStatistics::*values;
  bool CalibrationNeeds::*need;  ///< of those who want it; the ranges belong to absmax
  enum class Rows { one, cols, sample } rows;
};
inline constexpr StatisticsPart kStatisticsParts[] = {
    {"absmax", &InputStatistics::absmax, &CalibrationNeeds::absmax, StatisticsPart::Rows::one},
    {"minimum", &InputStatistics::minimum, &CalibrationNeeds::absmax, StatisticsPart::Rows::one},
    {"maximum", &InputStatistics::maximum, &CalibrationNeeds::absmax, StatisticsPart::Rows::one},
    {"mean_abs", &InputStatistics::mean_abs, &CalibrationNeeds::mean_abs, StatisticsPart::Rows::one},
    {"mean", &InputStatistics::mean, &CalibrationNeeds::mean, StatisticsPart::Rows::one},
    {"square", &InputStatistics::square, &CalibrationNeeds::square, StatisticsPart::Rows::one},
    {"cross_gram", &InputStatistics::cross_gram, &CalibrationNeeds::cross_gram, StatisticsPart::Rows::cols},
    {"rows", &InputStatistics::rows, &CalibrationNeeds::rows, StatisticsPart::Rows::sample}};
inline constexpr const char* kGramUpper = "gram_upper";  ///< [cols (cols + 1) / 2]: row after row, from the diagonal on
inline constexpr const char* kGramFull = "gram";         ///< [cols, cols]: files from elsewhere may have this instead
inline constexpr std::uint64_t kMostColumns = 1 << 20;

}  // namespace quant::calibration
