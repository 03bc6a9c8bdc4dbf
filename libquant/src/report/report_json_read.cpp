// Reads a report from JSON. The text is not trusted: every key must be known, present and of its type.
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "quant/error.h"
#include "quant/report.h"

namespace quant {

namespace {

using nlohmann::json;

constexpr const char* kHint =
    "The file was changed or made by another version; run the job again to write a new report.";

[[noreturn]] void fail(const std::string& source, const std::string& message) {
  throw Error(ErrorCode::corrupt_file, source + ": " + message, kHint, "InvalidReport");
}

// A name from the file in an error message, kept short.
std::string shown(const std::string& text) {
  constexpr std::size_t kMaxShown = 80;
  if (text.size() <= kMaxShown) return "'" + text + "'";
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return "'" + text.substr(0, end) + "...'";
}

// One object of the document and the key that leads to it. `finish` rejects keys that nobody asked for.
class Object {
 public:
  Object(const json& value, std::string source, std::string path)
      : value_(value), source_(std::move(source)), path_(std::move(path)) {
    if (!value_.is_object()) fail(source_, place("") + " is not an object but " + value_.type_name());
  }

  std::string text(const char* key) {
    const json& value = need(key);
    if (!value.is_string()) wrong(key, "a string", value);
    return value.get<std::string>();
  }

  std::uint64_t whole(const char* key) {
    const json& value = need(key);
    if (!value.is_number_unsigned()) wrong(key, "a whole number of at most 64 bits", value);
    return value.get<std::uint64_t>();
  }

  double real(const char* key) { return to_real(need(key), key); }

  std::vector<std::string> texts(const char* key) {
    std::vector<std::string> list;
    for (const json& value : array(key)) {
      if (!value.is_string()) wrong(key, "a list of strings", value);
      list.push_back(value.get<std::string>());
    }
    return list;
  }

  std::vector<double> reals(const char* key) {
    std::vector<double> list;
    for (const json& value : array(key)) list.push_back(to_real(value, key));
    return list;
  }

  Shape shape(const char* key) {
    constexpr std::size_t kMaxRank = 64;
    Shape sizes;
    for (const json& value : array(key)) {
      if (!value.is_number_unsigned()) wrong(key, "a list of whole numbers", value);
      sizes.push_back(value.get<std::uint64_t>());
    }
    if (sizes.size() > kMaxRank) fail(source_, place(key) + " has " + std::to_string(sizes.size()) + " dimensions");
    return sizes;
  }

  const json& array(const char* key) {
    const json& value = need(key);
    if (!value.is_array()) wrong(key, "a list", value);
    return value;
  }

  Object object(const char* key) { return Object(need(key), source_, join(key)); }

  /// Keys that only some reports have.
  bool has(const char* key) const { return value_.contains(key); }

  // A derived value: it must be there, what it says is computed anew.
  void skip(const char* key) { need(key); }

  void finish() const {
    for (const auto& [key, value] : value_.items()) {
      if (used_.count(key) == 0) fail(source_, place("") + " has the unknown key " + shown(key));
    }
  }

  /// How messages name a key of this object, or with "" the object itself.
  std::string place(const std::string& key) const {
    const std::string path = join(key);
    return path.empty() ? "the document" : "'" + path + "'";
  }

 private:
  std::string join(const std::string& key) const { return path_ + (path_.empty() || key.empty() ? "" : ".") + key; }

  const json& need(const char* key) {
    const auto found = value_.find(key);
    if (found == value_.end()) fail(source_, place(key) + " is missing");
    used_.insert(key);
    return *found;
  }

  [[noreturn]] void wrong(const char* key, const char* expected, const json& found) const {
    fail(source_, place(key) + " is not " + expected + " but has " + found.type_name());
  }

  double to_real(const json& value, const char* key) const {
    if (value.is_null()) return std::numeric_limits<double>::infinity();
    if (!value.is_number()) wrong(key, "a number or null", value);
    return value.get<double>();
  }

  const json& value_;
  std::string source_;
  std::string path_;
  std::set<std::string> used_;
};

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
  object.finish();
  return calibration;
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
  const std::vector<double> seconds = object.reals("layer_seconds");
  if (seconds.size() != report.layers.size()) {
    fail(source, object.place("layer_seconds") + " has " + std::to_string(seconds.size()) + " entries for " +
                     std::to_string(report.layers.size()) + " layers");
  }
  for (std::size_t i = 0; i < seconds.size(); ++i) report.layers[i].seconds = seconds[i];
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
  if (const std::uint64_t version = root.whole("schema_version"); version < 1 || version > kReportSchemaVersion) {
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
  read_totals(root.object("totals"), report, source);
  read_run(root.object("run"), report, source);
  root.finish();
  return report;
}

}  // namespace quant
