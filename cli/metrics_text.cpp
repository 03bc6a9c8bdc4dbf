#include "metrics_text.h"

#include <fmt/format.h>

#include <cmath>

namespace quant::cli {

Json metrics_json(const ErrorSums& sums) {
  const WeightMetrics metrics = summarize(sums);
  return {{"weights", sums.count},    {"nmse", metrics.nmse}, {"sqnr_db", metrics.sqnr_db},
          {"cosine", metrics.cosine}, {"rmse", metrics.rmse}, {"max_abs_error", metrics.max_abs_error}};
}

std::string sqnr_text(double sqnr_db) {
  if (std::isinf(sqnr_db)) return sqnr_db > 0 ? "exact" : "-inf";
  return fmt::format("{:.2f} dB", sqnr_db);
}

std::string nmse_text(double nmse) { return nmse == 0 ? "0" : fmt::format("{:.3e}", nmse); }

std::string number_text(double value) { return fmt::format("{:.4g}", value); }

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  if (shape.empty()) return "scalar";
  return fmt::format("{}", fmt::join(shape, " x "));
}

}  // namespace quant::cli
