// Writes a report as JSON. Keys: docs/report.md.
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/report.h"
#include "report/evaluation_json.h"
#include "report/report_summary.h"

namespace quant {

namespace {

using nlohmann::json;

constexpr std::size_t kWorstLayers = 10;

// JSON has no infinity; null stands for it.
json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json sums_json(const ErrorSums& sums) {
  return {{"signal", number(sums.signal)},
          {"noise", number(sums.noise)},
          {"dot", number(sums.dot)},
          {"recon", number(sums.recon)},
          {"max_abs_error", number(sums.max_abs_error)},
          {"count", sums.count},
          {"clipped", sums.clipped},
          {"zeros", sums.zeros}};
}

json output_json(const OutputErrors& errors) {
  const WeightMetrics metrics = summarize(errors);
  return {
      {"signal", number(errors.signal)}, {"noise", number(errors.noise)},          {"dot", number(errors.dot)},
      {"recon", number(errors.recon)},   {"relative_error", number(metrics.nmse)}, {"sqnr_db", number(metrics.sqnr_db)},
      {"cosine", number(metrics.cosine)}};
}

json record_json(const CalibrationRecord& record) {
  json entry = {{"tokens", record.tokens}, {"damping", number(record.damping)}, {"fallback", record.fallback}};
  if (record.output) entry["output"] = output_json(*record.output);
  return entry;
}

json calibration_json(const CalibrationReport& calibration) {
  json blocks = json::array();
  for (const BlockReport& block : calibration.blocks) {
    json entry = {{"name", block.name}, {"notes", block.notes}};
    if (block.output) entry["output"] = output_json(*block.output);
    blocks.push_back(std::move(entry));
  }
  json entry = {{"source", calibration.source}, {"hash", calibration.hash},       {"sequences", calibration.sequences},
                {"tokens", calibration.tokens}, {"longest", calibration.longest}, {"product", calibration.product},
                {"blocks", std::move(blocks)}};
  if (const auto& statistics = calibration.statistics) {
    entry["statistics"] = {
        {"data", statistics->data}, {"data_hash", statistics->data_hash}, {"tool_version", statistics->tool_version}};
  }
  if (calibration.unquantized_inputs) entry["inputs"] = "unquantized";
  return entry;
}

json metrics_json(const ErrorSums& sums) {
  const WeightMetrics metrics = summarize(sums);
  return {{"nmse", number(metrics.nmse)},
          {"sqnr_db", number(metrics.sqnr_db)},
          {"cosine", number(metrics.cosine)},
          {"rmse", number(metrics.rmse)},
          {"max_abs_error", number(metrics.max_abs_error)},
          {"clipped_fraction", number(metrics.clipped_fraction)},
          {"zero_fraction", number(metrics.zero_fraction)}};
}

json layer_json(const LayerReport& layer) {
  json entry = {{"module", layer.module},
                {"shape", layer.shape},
                {"dtype", layer.dtype},
                {"rule", layer.rule},
                {"modifier", layer.modifier},
                {"algorithm", layer.algorithm},
                {"scheme", layer.scheme},
                {"format", layer.format},
                {"bits_per_weight", number(layer.bits_per_weight)},
                {"bytes_before", layer.bytes_before},
                {"bytes_after", layer.bytes_after},
                {"sums", sums_json(layer.sums)},
                {"metrics", metrics_json(layer.sums)},
                {"scale_min", number(layer.scale_min)},
                {"scale_max", number(layer.scale_max)},
                {"notes", layer.notes}};
  if (layer.calibration) entry["calibration"] = record_json(*layer.calibration);
  if (layer.sparsity) {
    const SparsityRecord& sparsity = *layer.sparsity;
    entry["sparsity"] = {{"modifiers", sparsity.modifiers},
                         {"pattern", sparsity.pattern},
                         {"keep", sparsity.keep},
                         {"of", sparsity.of},
                         {"violations", sparsity.violations}};
  }
  return entry;
}

json layers_json(const RunReport& report) {
  json list = json::array();
  for (const LayerReport& layer : report.layers) list.push_back(layer_json(layer));
  return list;
}

json skipped_json(const RunReport& report) {
  json list = json::array();
  for (const SkippedTensor& tensor : report.skipped) {
    list.push_back({{"name", tensor.name},
                    {"shape", tensor.shape},
                    {"dtype", tensor.dtype},
                    {"bytes", tensor.bytes},
                    {"reason", tensor.reason}});
  }
  return list;
}

json by_kind_json(const RunReport& report) {
  json list = json::array();
  for (const report::Kind& kind : report::group_layers(report).kinds) {
    list.push_back({{"kind", kind.label},
                    {"path", kind.path},
                    {"layers", kind.layers},
                    {"bytes_before", kind.bytes_before},
                    {"bytes_after", kind.bytes_after},
                    {"metrics", metrics_json(kind.sums)},
                    {"worst_module", report.layers[kind.worst].module}});
  }
  return list;
}

json worst_json(const RunReport& report) {
  json list = json::array();
  for (const std::size_t index : report::worst_layers(report, kWorstLayers)) {
    const LayerReport& layer = report.layers[index];
    const WeightMetrics metrics = summarize(layer.sums);
    list.push_back({{"module", layer.module}, {"nmse", number(metrics.nmse)}, {"sqnr_db", number(metrics.sqnr_db)}});
  }
  return list;
}

json totals_json(const RunReport& report) {
  const ErrorSums total = total_errors(report);
  return {{"layers", report.layers.size()},
          {"skipped", report.skipped.size()},
          {"parameters", report.parameters},
          {"bytes_before", report.bytes_before},
          {"bytes_after", report.bytes_after},
          {"bits_per_weight", number(report.bits_per_weight)},
          {"model_bits_per_parameter", number(report.model_bits_per_parameter)},
          {"sums", sums_json(total)},
          {"metrics", metrics_json(total)},
          {"by_kind", by_kind_json(report)},
          {"worst_layers", worst_json(report)}};
}

// What a second run of the same plan may change: clock, machine, and where the model lies on it.
json run_json(const RunReport& report) {
  json seconds = json::array();
  for (const LayerReport& layer : report.layers) seconds.push_back(number(layer.seconds));
  json entry = {{"model", report.model},
                {"fingerprint", report.fingerprint},
                {"machine", report.machine},
                {"started", report.started},
                {"seconds", number(report.seconds)},
                {"peak_memory_planned", report.peak_memory_planned},
                {"peak_memory_measured", report.peak_memory_measured},
                {"layer_seconds", std::move(seconds)}};
  if (report.peak_resident_memory != 0) entry["peak_resident_memory"] = report.peak_resident_memory;
  if (report.evaluation) entry["evaluation"] = report::evaluation_run_json(*report.evaluation);
  return entry;
}

}  // namespace

std::string report_to_json(const RunReport& report) {
  json document = {{"schema_version", kReportSchemaVersion},
                   {"tool_version", report.tool_version},
                   {"architecture", report.architecture},
                   {"recipe", {{"name", report.recipe_name}, {"text", report.recipe_text}}},
                   {"plan_identity", report.plan_identity},
                   {"layout", report.layout},
                   {"totals", totals_json(report)},
                   {"layers", layers_json(report)},
                   {"skipped", skipped_json(report)},
                   {"warnings", report.warnings},
                   {"run", run_json(report)}};
  if (report.calibration) document["calibration"] = calibration_json(*report.calibration);
  if (report.evaluation) document["evaluation"] = report::evaluation_json(*report.evaluation);
  // Bytes that are not UTF-8 (a path, say) become U+FFFD: a report must not fail at the end of a long run.
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace quant
