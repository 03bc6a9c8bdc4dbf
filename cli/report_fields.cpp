#include "report_fields.h"

#include <fmt/format.h>

#include "metrics_text.h"
#include "units.h"

namespace quant::cli {

std::vector<std::pair<std::string, std::string>> error_fields(const RunReport& report) {
  if (report.layers.empty()) return {{"error", "no weights were changed"}};
  std::vector<std::pair<std::string, std::string>> fields;
  const auto outputs = output_summary(report);
  const WeightMetrics total = summarize(total_errors(report));
  fields.emplace_back(outputs ? "weight error" : "error",
                      fmt::format("{}, SQNR {}, NMSE {}, cosine {:.6f}", counted(report.layers.size(), "layer"),
                                  sqnr_text(total.sqnr_db), nmse_text(total.nmse), total.cosine));
  if (outputs) {
    fields.emplace_back("output error", fmt::format("{}, SQNR {}, {} of the outputs' energy on average, at most {}",
                                                    counted(outputs->layers, "layer"), sqnr_text(outputs->sqnr_db),
                                                    nmse_text(outputs->relative_error), nmse_text(outputs->largest)));
  }
  std::uint64_t pruned = 0, weights = 0, zeros = 0, violations = 0;
  bool semi = false;
  for (const LayerReport& layer : report.layers) {
    if (!layer.sparsity) continue;
    ++pruned;
    weights += layer.sums.count;
    zeros += layer.sums.zeros;
    violations += layer.sparsity->violations;
    semi = semi || layer.sparsity->of > 0;
  }
  if (pruned > 0) {
    fields.emplace_back("sparsity", fmt::format("{}, {} of their weights are 0{}", counted(pruned, "pruned layer"),
                                                percent(zeros, weights),
                                                semi ? ", " + counted(violations, "violation") + " of N:M" : ""));
  }
  const std::string fallbacks = fallback_summary(report).sentence;
  if (!fallbacks.empty()) fields.emplace_back("fallbacks", printable(fallbacks) + "; see the report");
  return fields;
}

}  // namespace quant::cli
