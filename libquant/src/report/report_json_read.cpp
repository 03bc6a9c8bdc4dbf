// Reads a report from JSON. The text is not trusted: every key must be known, present and of its type.
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "quant/error.h"
#include "quant/report.h"
#include "report/evaluation_json.h"
#include "report/json_object.h"

namespace quant {

namespace {

using nlohmann::json;
using report::fail;
using report::kHint;
using report::Object;
using report::shown;

ErrorSums read_sums(Object object, const std::string& source) {
  ErrorSums sums;
  sums.signal = object.real("signal");
  sums.noise = object.real("noise");
  sums.dot = object.real("dot");
  sums.recon = object.real("recon");
  sums.max_abs_error = object.real("max_abs_error");
  sums.count = object.whole("count");
  sums.clipped = object.whole("clipped");
  sums.zeros = object.whole("zeros");
  object.finish();
  if (sums.signal < 0 || sums.noise < 0 || sums.recon < 0 || sums.max_abs_error < 0) {
    fail(source, object.place("") + " has a negative sum of squares or largest error");
  }
  if (sums.clipped > sums.count || sums.zeros > sums.count) {
    fail(source, object.place("") + " counts " + std::to_string(sums.clipped) + " clipped and " +
                     std::to_string(sums.zeros) + " zero weights of " + std::to_string(sums.count));
  }
  return sums;
}

OutputErrors read_output(Object object, const std::string& source) {
  OutputErrors errors;
  errors.signal = object.real("signal");
  errors.noise = object.real("noise");
  errors.dot = object.real("dot");
  errors.recon = object.real("recon");
  for (const char* derived : {"relative_error", "sqnr_db", "cosine"}) object.skip(derived);
  object.finish();
  if (errors.signal < 0 || errors.noise < 0 || errors.recon < 0) {
    fail(source, object.place("") + " has a negative sum of squares");
  }
  return errors;
}

CalibrationRecord read_record(Object object, const std::string& source) {
  CalibrationRecord record;
  record.tokens = object.whole("tokens");
  record.damping = object.real("damping");
  record.fallback = object.text("fallback");
  if (object.has("output")) record.output = read_output(object.object("output"), source);
  object.finish();
  return record;
}

BlockReport read_block(Object object, const std::string& source) {
  BlockReport block;
  block.name = object.text("name");
  block.notes = object.texts("notes");
  if (object.has("output")) block.output = read_output(object.object("output"), source);
  object.finish();
  return block;
}

StatisticsSource read_statistics_source(Object object) {
  StatisticsSource statistics{object.text("data"), object.text("data_hash"), object.text("tool_version")};
  object.finish();
  return statistics;
}

CalibrationReport read_calibration(Object object, const std::string& source) {
  CalibrationReport calibration;
  calibration.source = object.text("source");
  calibration.hash = object.text("hash");
  calibration.sequences = object.whole("sequences");
  calibration.tokens = object.whole("tokens");
  calibration.longest = object.whole("longest");
  calibration.product = object.text("product");
  for (const json& block : object.array("blocks")) {
    const std::string name = "calibration.blocks[" + std::to_string(calibration.blocks.size()) + "]";
    calibration.blocks.push_back(read_block(Object(block, source, name), source));
  }
  if (object.has("statistics")) calibration.statistics = read_statistics_source(object.object("statistics"));
  calibration.unquantized_inputs = object.has("inputs") && object.text("inputs") == "unquantized";
  object.finish();
  return calibration;
}

SparsityRecord read_sparsity(Object object, const std::string& source) {
  SparsityRecord sparsity;
  sparsity.modifiers = object.text("modifiers");
  sparsity.pattern = object.text("pattern");
  const std::uint64_t keep = object.whole("keep"), of = object.whole("of");
  if (keep > of || of > std::numeric_limits<std::uint32_t>::max()) {
    fail(source, object.place("keep") + " says " + std::to_string(keep) + " of " + std::to_string(of));
  }
  sparsity.keep = static_cast<std::uint32_t>(keep);
  sparsity.of = static_cast<std::uint32_t>(of);
  sparsity.violations = object.whole("violations");
  object.finish();
  return sparsity;
}

LayerReport read_layer(Object object, const std::string& source) {
  LayerReport layer;
  layer.module = object.text("module");
  layer.shape = object.shape("shape");
  layer.dtype = object.text("dtype");
  layer.rule = object.text("rule");
  layer.modifier = object.text("modifier");
  layer.algorithm = object.text("algorithm");
  layer.scheme = object.text("scheme");
  layer.format = object.text("format");
  layer.bits_per_weight = object.real("bits_per_weight");
  layer.bytes_before = object.whole("bytes_before");
  layer.bytes_after = object.whole("bytes_after");
  layer.sums = read_sums(object.object("sums"), source);
  layer.scale_min = object.real("scale_min");
  layer.scale_max = object.real("scale_max");
  layer.notes = object.texts("notes");
  if (object.has("calibration")) layer.calibration = read_record(object.object("calibration"), source);
  if (object.has("sparsity")) layer.sparsity = read_sparsity(object.object("sparsity"), source);
  object.skip("metrics");
  object.finish();
  return layer;
}

SkippedTensor read_skipped(Object object) {
  SkippedTensor tensor;
  tensor.name = object.text("name");
  tensor.shape = object.shape("shape");
  tensor.dtype = object.text("dtype");
  tensor.bytes = object.whole("bytes");
  tensor.reason = object.text("reason");
  object.finish();
  return tensor;
}

void read_totals(Object object, RunReport& report, const std::string& source) {
  report.parameters = object.whole("parameters");
  report.bytes_before = object.whole("bytes_before");
  report.bytes_after = object.whole("bytes_after");
  report.bits_per_weight = object.real("bits_per_weight");
  report.model_bits_per_parameter = object.real("model_bits_per_parameter");
  const auto check_size = [&](const char* key, std::size_t found) {
    const std::uint64_t said = object.whole(key);
    if (said == found) return;
    fail(source,
         object.place(key) + " says " + std::to_string(said) + ", but the report lists " + std::to_string(found));
  };
  check_size("layers", report.layers.size());
  check_size("skipped", report.skipped.size());
  for (const char* derived : {"sums", "metrics", "by_kind", "worst_layers"}) object.skip(derived);
  object.finish();
}

void read_run(Object object, RunReport& report, const std::string& source) {
  report.model = object.text("model");
  report.fingerprint = object.text("fingerprint");
  report.machine = object.text("machine");
  report.started = object.text("started");
  report.seconds = object.real("seconds");
  report.peak_memory_planned = object.whole("peak_memory_planned");
  report.peak_memory_measured = object.whole("peak_memory_measured");
  if (object.has("peak_resident_memory")) report.peak_resident_memory = object.whole("peak_resident_memory");
  const std::vector<double> seconds = object.reals("layer_seconds");
  if (seconds.size() != report.layers.size()) {
    fail(source, object.place("layer_seconds") + " has " + std::to_string(seconds.size()) + " entries for " +
                     std::to_string(report.layers.size()) + " layers");
  }
  for (std::size_t i = 0; i < seconds.size(); ++i) report.layers[i].seconds = seconds[i];
  if (report.evaluation) report::read_evaluation_run(object.object("evaluation"), *report.evaluation);
  object.finish();
}

// The parser keeps the last of two equal keys silently; a report that says two things says nothing.
json parse(const std::string& text, const std::string& source) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail(source, "the key " + shown(parsed.get<std::string>()) + " occurs twice in one object");
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    fail(source, std::string("not valid JSON: ") + error.what());
  }
}

std::string entry(const char* list, std::size_t index) { return list + ("[" + std::to_string(index) + "]"); }

}  // namespace

RunReport report_from_json(const std::string& text, const std::string& source) {
  const json document = parse(text, source);
  Object root(document, source, "");
  const std::uint64_t version = root.whole("schema_version");
  if (version < 1 || version > kReportSchemaVersion) {
    throw Error(ErrorCode::unsupported,
                source + ": 'schema_version' is " + std::to_string(version) + "; this version reads 1 to " +
                    std::to_string(kReportSchemaVersion),
                kHint, "ReportVersion");
  }
  RunReport report;
  report.tool_version = root.text("tool_version");
  report.architecture = root.text("architecture");
  Object recipe = root.object("recipe");
  report.recipe_name = recipe.text("name");
  report.recipe_text = recipe.text("text");
  recipe.finish();
  report.plan_identity = root.text("plan_identity");
  report.layout = root.text("layout");
  for (const json& layer : root.array("layers")) {
    report.layers.push_back(read_layer(Object(layer, source, entry("layers", report.layers.size())), source));
  }
  for (const json& tensor : root.array("skipped")) {
    report.skipped.push_back(read_skipped(Object(tensor, source, entry("skipped", report.skipped.size()))));
  }
  report.warnings = root.texts("warnings");
  if (root.has("calibration")) report.calibration = read_calibration(root.object("calibration"), source);
  if (version >= 3 && root.has("evaluation"))
    report.evaluation = report::read_evaluation(root.object("evaluation"), source);
  read_totals(root.object("totals"), report, source);
  read_run(root.object("run"), report, source);
  root.finish();
  return report;
}

}  // namespace quant
