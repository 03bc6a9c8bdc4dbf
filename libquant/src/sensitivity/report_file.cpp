// Sensitivity reports as JSON, and back.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "output/files.h"
#include "quant/error.h"
#include "quant/sensitivity.h"

namespace quant {
namespace {

using Json = nlohmann::ordered_json;
using nlohmann::json;

constexpr int kVersion = 2;  // 2: model_hash
constexpr std::string_view kFormat = "libquant-sensitivity";

Json loss_json(const std::string& candidate, const CandidateLoss& loss) {
  if (!loss.possible) return {{"candidate", candidate}, {"scheme", loss.scheme}, {"possible", false}};
  return {{"candidate", candidate},
          {"scheme", loss.scheme},
          {"possible", true},
          {"bytes", loss.bytes},
          {"loss", loss.loss},
          {"error", loss.error},
          {"output_nmse", loss.output_nmse},
          {"weight_nmse", loss.weight_nmse}};
}

/// Reads members of one object of an untrusted file.
class Reader {
 public:
  Reader(const json& object, const std::string& file, std::string path)
      : object_(object), file_(file), path_(std::move(path)) {
    if (!object_.is_object()) fail(path_, "is no object");
  }
  [[noreturn]] void fail(const std::string& where, const std::string& why) const {
    throw Error(ErrorCode::corrupt_file, fmt::format("{}: {} {}", file_, where.empty() ? "the text" : where, why),
                "make it anew with quant sensitivity", "BadSensitivityReport");
  }
  std::string at(const char* key) const { return path_.empty() ? key : path_ + "." + key; }
  const json& member(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) fail(at(key), "is missing");
    return *found;
  }
  std::string text(const char* key) const {
    const json& value = member(key);
    if (!value.is_string()) fail(at(key), "is no text");
    return value.get<std::string>();
  }
  bool flag(const char* key) const {
    const json& value = member(key);
    if (!value.is_boolean()) fail(at(key), "is neither true nor false");
    return value.get<bool>();
  }
  std::uint64_t whole(const char* key, std::uint64_t most = ~std::uint64_t{0}) const {
    const json& value = member(key);
    if (!value.is_number_unsigned()) fail(at(key), "is no whole number");
    const auto number = value.get<std::uint64_t>();
    if (number > most) fail(at(key), fmt::format("is {}, more than {}", number, most));
    return number;
  }
  double number(const char* key) const {
    const json& value = member(key);
    if (!value.is_number()) fail(at(key), "is no number");
    const double number = value.get<double>();
    if (!std::isfinite(number) || number < 0) fail(at(key), fmt::format("is {}, not a finite number from 0", number));
    return number;
  }
  const json& list(const char* key) const {
    const json& value = member(key);
    if (!value.is_array()) fail(at(key), "is no list");
    return value;
  }

 private:
  const json& object_;
  const std::string& file_;
  std::string path_;
};

// No model has more; sums of so many fit in 64 bits.
constexpr std::uint64_t kMostElements = std::uint64_t{1} << 40U;
constexpr std::uint64_t kMostSide = std::uint64_t{1} << 30U;

CandidateLoss read_loss(const Reader& reader, const std::string& candidate) {
  if (reader.text("candidate") != candidate) {
    reader.fail(reader.at("candidate"), fmt::format("is not '{}', the candidate at this place", candidate));
  }
  CandidateLoss loss;
  loss.scheme = reader.text("scheme");
  loss.possible = reader.flag("possible");
  if (!loss.possible) return loss;
  loss.bytes = reader.whole("bytes", kMostElements);
  loss.loss = reader.number("loss");
  loss.error = reader.number("error");
  loss.output_nmse = reader.number("output_nmse");
  loss.weight_nmse = reader.number("weight_nmse");
  return loss;
}

LinearSensitivity read_linear(const Reader& reader, const std::string& file, const std::string& path,
                              const std::vector<std::string>& candidates, std::uint64_t sets) {
  LinearSensitivity linear;
  linear.module = reader.text("module");
  linear.rows = reader.whole("rows", kMostSide);
  linear.cols = reader.whole("cols", kMostSide);
  if (linear.rows == 0 || linear.cols == 0) reader.fail(path, "has no weights");
  linear.set = static_cast<int>(reader.whole("set", sets - 1));
  const json& losses = reader.list("losses");
  if (losses.size() != candidates.size()) {
    reader.fail(reader.at("losses"), fmt::format("has {} members for {} candidates", losses.size(), candidates.size()));
  }
  for (std::size_t c = 0; c < losses.size(); ++c) {
    linear.losses.push_back(read_loss(Reader(losses[c], file, fmt::format("{}.losses[{}]", path, c)), candidates[c]));
  }
  return linear;
}

/// Every set must have a member, since sums over sets are compared.
void check_sets(const SensitivityReport& report, const Reader& reader) {
  std::vector<bool> used;
  for (const LinearSensitivity& linear : report.linears) {
    const auto set = static_cast<std::size_t>(linear.set);
    if (used.size() <= set) used.resize(set + 1, false);
    used[set] = true;
  }
  for (std::size_t set = 0; set < used.size(); ++set) {
    if (!used[set]) reader.fail("linears", fmt::format("has no member of set {}", set));
  }
}

SensitivityReport read_report(const json& root, const std::string& file) {
  const Reader reader(root, file, "");
  if (reader.text("format") != kFormat) reader.fail("format", fmt::format("is not '{}'", kFormat));
  if (const auto version = reader.whole("version"); version != kVersion) {
    reader.fail("version", fmt::format("is {}; this program reads {}", version, kVersion));
  }
  SensitivityReport report;
  report.model = reader.text("model");
  report.model_hash = reader.text("model_hash");
  report.recipe = reader.text("recipe");
  report.layout = reader.text("layout");
  report.measure = parse_measure(reader.text("measure"));
  report.independent = reader.flag("independent");
  report.product = reader.text("product") == "bf16" ? ProductType::bf16 : ProductType::f32;
  report.source = reader.text("source");
  report.hash = reader.text("hash");
  report.sequences = reader.whole("sequences");
  report.tokens = reader.whole("tokens");
  report.seconds = reader.number("seconds");
  std::string names;
  for (const json& name : reader.list("candidates")) {
    if (!name.is_string()) reader.fail("candidates", "has a member that is no text");
    names += (names.empty() ? "" : ",") + name.get<std::string>();
  }
  report.candidates = parse_candidates(names);
  const json& linears = reader.list("linears");
  if (linears.empty()) reader.fail("linears", "is empty");
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const std::string path = fmt::format("linears[{}]", i);
    report.linears.push_back(
        read_linear(Reader(linears[i], file, path), file, path, report.candidates, linears.size()));
  }
  check_sets(report, reader);
  return report;
}

}  // namespace

std::string sensitivity_json(const SensitivityReport& report) {
  Json linears = Json::array();
  for (const LinearSensitivity& linear : report.linears) {
    Json losses = Json::array();
    for (std::size_t c = 0; c < linear.losses.size(); ++c) {
      losses.push_back(loss_json(report.candidates[c], linear.losses[c]));
    }
    linears.push_back({{"module", linear.module},
                       {"rows", linear.rows},
                       {"cols", linear.cols},
                       {"set", linear.set},
                       {"losses", std::move(losses)}});
  }
  const Json root = {{"format", kFormat},
                     {"version", kVersion},
                     {"model", report.model},
                     {"model_hash", report.model_hash},
                     {"recipe", report.recipe},
                     {"layout", report.layout},
                     {"measure", to_string(report.measure)},
                     {"independent", report.independent},
                     {"product", report.product == ProductType::bf16 ? "bf16" : "f32"},
                     {"source", report.source},
                     {"hash", report.hash},
                     {"sequences", report.sequences},
                     {"tokens", report.tokens},
                     {"seconds", report.seconds},
                     {"candidates", report.candidates},
                     {"linears", std::move(linears)}};
  return root.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

SensitivityReport parse_sensitivity(std::string_view text, const std::string& file) {
  const json root = json::parse(text, nullptr, false);
  if (root.is_discarded()) {
    throw Error(ErrorCode::corrupt_file, fmt::format("{}: this is no JSON", file),
                "name a file that quant sensitivity wrote", "BadSensitivityReport");
  }
  try {
    return read_report(root, file);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::corrupt_file) throw;
    // Names that this version does not know: the file is at fault, not the caller.
    throw Error(ErrorCode::corrupt_file, fmt::format("{}: {}", file, error.what()),
                "make it anew with quant sensitivity", "BadSensitivityReport");
  }
}

SensitivityReport read_sensitivity(const std::filesystem::path& file) {
  return parse_sensitivity(read_text_file(file), file.string());
}

}  // namespace quant
