// One line per layer, RFC 4180 quoting.
#include <fmt/format.h>

#include <iterator>

#include "quant/report.h"

namespace quant {

namespace {

constexpr const char* kHeader =
    "module,shape,dtype,rule,modifier,algorithm,scheme,format,bits_per_weight,bytes_before,bytes_after,weights,nmse,"
    "sqnr_db,cosine,rmse,max_abs_error,clipped_fraction,zero_fraction,scale_min,scale_max,seconds,notes,tokens,damping,"
    "fallback,output_error,output_sqnr_db,output_cosine,sparsity,violations\n";

std::string field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string shape_text(const Shape& shape) { return fmt::format("{}", fmt::join(shape, "x")); }

std::string notes_text(const std::vector<std::string>& notes) { return fmt::format("{}", fmt::join(notes, "; ")); }

// Empty fields for what was not measured.
std::string calibration_text(const LayerReport& layer) {
  if (!layer.calibration) return ",,,,,";
  const CalibrationRecord& record = *layer.calibration;
  std::string text = fmt::format("{},{},{},", record.tokens, record.damping, field(record.fallback));
  if (!record.output) return text + ",,";
  const WeightMetrics metrics = summarize(*record.output);
  return text + fmt::format("{},{},{}", metrics.nmse, metrics.sqnr_db, metrics.cosine);
}

std::string sparsity_text(const LayerReport& layer) {
  if (!layer.sparsity) return ",";
  return fmt::format("{},{}", field(layer.sparsity->pattern), layer.sparsity->violations);
}

}  // namespace

std::string report_to_csv(const RunReport& report) {
  std::string out = kHeader;
  for (const LayerReport& layer : report.layers) {
    const WeightMetrics metrics = summarize(layer.sums);
    fmt::format_to(std::back_inserter(out), "{},{},{},{},{},{},{},{},{},{},{},{},", field(layer.module),
                   field(shape_text(layer.shape)), field(layer.dtype), field(layer.rule), field(layer.modifier),
                   field(layer.algorithm), field(layer.scheme), field(layer.format), layer.bits_per_weight,
                   layer.bytes_before, layer.bytes_after, layer.sums.count);
    fmt::format_to(std::back_inserter(out), "{},{},{},{},{},{},{},{},{},{},{},{},{}\n", metrics.nmse, metrics.sqnr_db,
                   metrics.cosine, metrics.rmse, metrics.max_abs_error, metrics.clipped_fraction, metrics.zero_fraction,
                   layer.scale_min, layer.scale_max, layer.seconds, field(notes_text(layer.notes)),
                   calibration_text(layer), sparsity_text(layer));
  }
  return out;
}

}  // namespace quant
