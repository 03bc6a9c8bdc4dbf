#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/report.h"
#include "sample_reports.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using nlohmann::json;

namespace {

void check_equal(const ErrorSums& a, const ErrorSums& b) {
  CHECK(a.signal == b.signal);
  CHECK(a.noise == b.noise);
  CHECK(a.dot == b.dot);
  CHECK(a.recon == b.recon);
  CHECK(a.max_abs_error == b.max_abs_error);
  CHECK(a.count == b.count);
  CHECK(a.clipped == b.clipped);
  CHECK(a.zeros == b.zeros);
}

void check_equal(const std::optional<OutputErrors>& a, const std::optional<OutputErrors>& b) {
  REQUIRE(a.has_value() == b.has_value());
  if (!a) return;
  for (const auto member : {&OutputErrors::signal, &OutputErrors::noise, &OutputErrors::dot, &OutputErrors::recon}) {
    CHECK((*a).*member == (*b).*member);
  }
}

void check_equal(const std::optional<CalibrationRecord>& a, const std::optional<CalibrationRecord>& b) {
  REQUIRE(a.has_value() == b.has_value());
  if (!a) return;
  CHECK(a->tokens == b->tokens);
  CHECK(a->damping == b->damping);
  CHECK(a->fallback == b->fallback);
  check_equal(a->output, b->output);
}

void check_equal(const std::optional<CalibrationReport>& a, const std::optional<CalibrationReport>& b) {
  REQUIRE(a.has_value() == b.has_value());
  if (!a) return;
  for (const auto member : {&CalibrationReport::source, &CalibrationReport::hash, &CalibrationReport::product}) {
    CHECK((*a).*member == (*b).*member);
  }
  for (const auto member : {&CalibrationReport::sequences, &CalibrationReport::tokens, &CalibrationReport::longest}) {
    CHECK((*a).*member == (*b).*member);
  }
  REQUIRE(a->statistics.has_value() == b->statistics.has_value());
  if (a->statistics) {
    CHECK(a->statistics->data == b->statistics->data);
    CHECK(a->statistics->data_hash == b->statistics->data_hash);
    CHECK(a->statistics->tool_version == b->statistics->tool_version);
  }
  REQUIRE(a->blocks.size() == b->blocks.size());
  for (std::size_t i = 0; i < a->blocks.size(); ++i) {
    CHECK(a->blocks[i].name == b->blocks[i].name);
    CHECK(a->blocks[i].notes == b->blocks[i].notes);
    check_equal(a->blocks[i].output, b->blocks[i].output);
  }
}

void check_equal(const Estimate& a, const Estimate& b) {
  CHECK(a.mean == b.mean);
  CHECK((a.error == b.error || (std::isnan(a.error) && std::isnan(b.error))));
}

void check_equal(const BaseComparison& a, const BaseComparison& b) {
  for (const auto member : {&BaseComparison::nats, &BaseComparison::perplexity, &BaseComparison::nats_increase,
                            &BaseComparison::increase, &BaseComparison::same_top, &BaseComparison::top5}) {
    check_equal(a.*member, b.*member);
  }
  check_equal(a.divergence.mean, b.divergence.mean);
  for (const auto member : {&Divergence::median, &Divergence::percent90, &Divergence::percent99,
                            &Divergence::percent999, &Divergence::maximum}) {
    CHECK(a.divergence.*member == b.divergence.*member);
  }
}

void check_equal(const EvaluatedAs& a, const EvaluatedAs& b) {
  CHECK(a.weights == b.weights);
  CHECK(a.activations == b.activations);
  CHECK(a.kv_cache == b.kv_cache);
}

void check_equal(const std::optional<EvaluationReport>& a, const std::optional<EvaluationReport>& b) {
  REQUIRE(a.has_value() == b.has_value());
  if (!a) return;
  for (const auto member : {&EvaluationReport::source, &EvaluationReport::hash, &EvaluationReport::product}) {
    CHECK((*a).*member == (*b).*member);
  }
  for (const auto member :
       {&EvaluationReport::window_length, &EvaluationReport::text_bytes, &EvaluationReport::peak_memory_planned,
        &EvaluationReport::peak_memory_measured, &EvaluationReport::peak_resident_memory}) {
    CHECK((*a).*member == (*b).*member);
  }
  CHECK(a->first_token == b->first_token);
  CHECK(a->seconds == b->seconds);
  check_equal(a->model, b->model);
  CHECK(a->result.windows == b->result.windows);
  CHECK(a->result.tokens == b->result.tokens);
  CHECK(a->result.predictions == b->result.predictions);
  CHECK(a->result.window_nats == b->result.window_nats);
  check_equal(a->result.nats, b->result.nats);
  check_equal(a->result.perplexity, b->result.perplexity);
  REQUIRE(a->result.base.has_value() == b->result.base.has_value());
  if (!a->result.base) return;
  check_equal(*a->result.base, *b->result.base);
  check_equal(*a->base, *b->base);
}

void check_equal(const LayerReport& a, const LayerReport& b) {
  CHECK(a.module == b.module);
  CHECK(a.shape == b.shape);
  CHECK(a.dtype == b.dtype);
  CHECK(a.rule == b.rule);
  CHECK(a.modifier == b.modifier);
  CHECK(a.algorithm == b.algorithm);
  CHECK(a.scheme == b.scheme);
  CHECK(a.format == b.format);
  CHECK(a.bits_per_weight == b.bits_per_weight);
  CHECK(a.bytes_before == b.bytes_before);
  CHECK(a.bytes_after == b.bytes_after);
  CHECK(a.scale_min == b.scale_min);
  CHECK(a.scale_max == b.scale_max);
  CHECK(a.seconds == b.seconds);
  CHECK(a.notes == b.notes);
  check_equal(a.sums, b.sums);
  check_equal(a.calibration, b.calibration);
}

void check_equal(const RunReport& a, const RunReport& b) {
  for (const auto member : {&RunReport::tool_version, &RunReport::model, &RunReport::architecture,
                            &RunReport::recipe_name, &RunReport::recipe_text, &RunReport::plan_identity,
                            &RunReport::layout, &RunReport::machine, &RunReport::fingerprint, &RunReport::started}) {
    CHECK(a.*member == b.*member);
  }
  for (const auto member :
       {&RunReport::peak_memory_planned, &RunReport::peak_memory_measured, &RunReport::peak_resident_memory,
        &RunReport::bytes_before, &RunReport::bytes_after, &RunReport::parameters}) {
    CHECK(a.*member == b.*member);
  }
  for (const auto member : {&RunReport::seconds, &RunReport::bits_per_weight, &RunReport::model_bits_per_parameter}) {
    CHECK(a.*member == b.*member);
  }
  CHECK(a.warnings == b.warnings);
  check_equal(a.calibration, b.calibration);
  check_equal(a.evaluation, b.evaluation);
  REQUIRE(a.layers.size() == b.layers.size());
  for (std::size_t i = 0; i < a.layers.size(); ++i) check_equal(a.layers[i], b.layers[i]);
  REQUIRE(a.skipped.size() == b.skipped.size());
  for (std::size_t i = 0; i < a.skipped.size(); ++i) {
    CHECK(a.skipped[i].name == b.skipped[i].name);
    CHECK(a.skipped[i].shape == b.skipped[i].shape);
    CHECK(a.skipped[i].dtype == b.skipped[i].dtype);
    CHECK(a.skipped[i].bytes == b.skipped[i].bytes);
    CHECK(a.skipped[i].reason == b.skipped[i].reason);
  }
}

// The error of reading `text`, which must name the source and contain `part`.
void check_refused(const std::string& text, const std::string& part, ErrorCode code = ErrorCode::corrupt_file) {
  CAPTURE(part);
  try {
    report_from_json(text, "dir/report.json");
    FAIL_CHECK("no error");
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CAPTURE(error.what());
    CHECK(std::string(error.what()).find("dir/report.json: ") == 0);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
    CHECK_FALSE(error.hint().empty());
  }
}

void check_changed(const std::string& pointer, const json& value, const std::string& part) {
  json document = json::parse(report_to_json(test::small_report()));
  document[json::json_pointer(pointer)] = value;
  check_refused(document.dump(), part);
}

}  // namespace

TEST_CASE("the JSON of a small report is the golden text", "[report][json]") {
  const std::string golden = test::read_file(std::string(QUANT_SOURCE_DIR) + "/tests/report/golden/small_report.json");
  CHECK(report_to_json(test::small_report()) == golden);
}

TEST_CASE("JSON keeps everything but the arrays", "[report][json]") {
  for (const RunReport& report : {test::small_report(), test::calibrated_report(), test::evaluated_report(),
                                  test::imported_report(), test::llama_report(3), RunReport{}}) {
    const std::string text = report_to_json(report);
    const RunReport back = report_from_json(text, "x");
    check_equal(back, report);
    CHECK(report_to_json(back) == text);
    CHECK(text.back() == '\n');
  }
}

TEST_CASE("reports of earlier versions are read", "[report][json]") {
  json document = json::parse(report_to_json(test::small_report()));
  for (const int version : {1, 2}) {
    document["schema_version"] = version;
    check_equal(report_from_json(document.dump(), "x"), test::small_report());
  }
}

TEST_CASE("JSON of an evaluation", "[report][json]") {
  const json document = json::parse(report_to_json(test::evaluated_report()));
  const json& evaluation = document["evaluation"];
  CHECK(evaluation["model"]["perplexity"]["mean"] == 7.5);
  CHECK(evaluation["base"]["perplexity"]["standard_error"] == 0.5625);
  // 24 tokens of 96 bytes: a quarter of the bits per token.
  CHECK(evaluation["model"]["bits_per_byte"].get<double>() == Approx(2.0 / std::log(2.0) / 4));
  CHECK(evaluation["first_token"].is_null());
  CHECK(evaluation["top5_overlap"]["standard_error"].is_null());
  CHECK(document["run"]["evaluation"]["seconds"] == 2.5);
  CHECK_FALSE(json::parse(report_to_json(test::small_report())).contains("evaluation"));

  RunReport begun = test::evaluated_report();
  begun.evaluation->first_token = 1;
  const RunReport back = report_from_json(report_to_json(begun), "x");
  CHECK(back.evaluation->first_token == 1);
  // A token of each window is not of the text.
  CHECK(back.evaluation->bits_per_byte(2.0) == Approx(21.0 / 96 * 2.0 / std::log(2.0)));
}

TEST_CASE("an evaluation that contradicts itself is refused", "[report][json]") {
  const auto refused = [](const std::string& pointer, const json& value, const std::string& part) {
    json changed = json::parse(report_to_json(test::evaluated_report()));
    changed[json::json_pointer(pointer)] = value;
    check_refused(changed.dump(), part);
  };
  refused("/evaluation", 5, "'evaluation' is not an object but number");
  refused("/evaluation/windows", 0, "'evaluation.window_nats' has 3 entries for 0 windows");
  refused("/evaluation/windows", 18446744073709551615ULL, "has 3 entries for 18446744073709551615 windows");
  refused("/evaluation/window_length", 1, "'evaluation.predictions' is 21 for 3 windows of 1 tokens");
  refused("/evaluation/window_length", 0, "3 windows of 0 tokens");
  refused("/evaluation/predictions", 22, "'evaluation.predictions' is 22");
  refused("/evaluation/window_nats/0", "x", "'evaluation.window_nats' is not a number");
  refused("/evaluation/first_token", -1, "'evaluation.first_token' is not a whole number");
  refused("/evaluation/first_token", 4294967296, "'evaluation.first_token' is 4294967296, which is no token id");
  refused("/evaluation/model/perplexity/mean", nullptr, "'evaluation.model.perplexity.mean' is no finite number");
  refused("/evaluation/model/perplexity/mean", -1, "no evaluation gives");
  refused("/evaluation/model/perplexity/standard_error", -1, "is negative");
  refused("/evaluation/model/more", 1, "unknown key 'more'");
  refused("/evaluation/base/kv_cache", 1, "'evaluation.base.kv_cache' is not a string");
  refused("/evaluation/same_top_token/mean", 1.5, "'evaluation.same_top_token.mean' is 1.5");
  refused("/evaluation/kl_divergence/mean", -0.5, "'evaluation.kl_divergence.mean' is -0.5");
  refused("/evaluation/kl_divergence/maximum", nullptr, "'evaluation.kl_divergence.maximum' is no finite number");
  refused("/evaluation/extra", 1, "'evaluation' has the unknown key 'extra'");
  refused("/run/evaluation/seconds", "x", "'run.evaluation.seconds' is not a number");
  json alone = json::parse(report_to_json(test::evaluated_report()));
  alone["evaluation"].erase("base");
  check_refused(alone.dump(), "'evaluation' has the unknown key");
  alone = json::parse(report_to_json(test::evaluated_report()));
  alone.erase("evaluation");
  check_refused(alone.dump(), "'run' has the unknown key 'evaluation'");
  alone = json::parse(report_to_json(test::evaluated_report()));
  alone["run"].erase("evaluation");
  check_refused(alone.dump(), "'run.evaluation' is missing");
  alone = json::parse(report_to_json(test::evaluated_report()));
  alone["schema_version"] = 2;
  check_refused(alone.dump(), "unknown key 'evaluation'");
}

TEST_CASE("JSON of a calibrated run", "[report][json]") {
  const json document = json::parse(report_to_json(test::calibrated_report()));
  const json& first = document["layers"][0]["calibration"];
  CHECK(first["tokens"] == 4096);
  CHECK(first["output"]["relative_error"] == 0.01);
  CHECK(first["output"]["sqnr_db"] == 20);
  CHECK(first["output"]["cosine"] == 0.995);
  CHECK_FALSE(document["layers"][1]["calibration"].contains("output"));
  CHECK(document["calibration"]["blocks"][0]["output"]["relative_error"] == 0.01);
  CHECK_FALSE(json::parse(report_to_json(test::small_report())).contains("calibration"));

  const auto refused = [](const std::string& pointer, const json& value, const std::string& part) {
    json changed = json::parse(report_to_json(test::calibrated_report()));
    changed[json::json_pointer(pointer)] = value;
    check_refused(changed.dump(), part);
  };
  refused("/calibration/tokens", -1, "'calibration.tokens' is not a whole number");
  refused("/calibration/more", 1, "unknown key 'more'");
  refused("/calibration/blocks/0/output/noise", -1, "negative sum of squares");
  refused("/layers/0/calibration/damping", "x", "'layers[0].calibration.damping' is not a number");
}

TEST_CASE("clock and machine stand under run alone", "[report][json]") {
  RunReport first = test::llama_report(2);
  RunReport second = first;
  second.started = "2030-01-01T00:00:00Z";
  second.machine = "another";
  second.fingerprint = "changed";
  second.model = "/elsewhere";
  second.seconds *= 2;
  first.evaluation = second.evaluation = test::evaluated_report().evaluation;
  second.evaluation->seconds *= 2;
  second.evaluation->peak_memory_measured += 1;
  second.evaluation->peak_resident_memory += 1;
  second.peak_resident_memory = 3;
  second.peak_memory_measured = 1;
  second.peak_memory_planned = 2;
  for (LayerReport& layer : second.layers) layer.seconds += 1;
  json a = json::parse(report_to_json(first));
  json b = json::parse(report_to_json(second));
  CHECK(a != b);
  a.erase("run");
  b.erase("run");
  CHECK(a.dump() == b.dump());
}

TEST_CASE("totals of the JSON", "[report][json]") {
  const json document = json::parse(report_to_json(test::llama_report(3)));
  const json& totals = document["totals"];
  CHECK(totals["layers"] == 21);
  CHECK(totals["by_kind"].size() == 7);
  CHECK(totals["by_kind"][1]["kind"] == "k_proj");
  CHECK(totals["by_kind"][1]["worst_module"] == "model.layers.0.self_attn.k_proj");
  CHECK(totals["worst_layers"].size() == 10);
  CHECK(totals["worst_layers"][0]["module"] == "model.layers.0.self_attn.k_proj");
}

TEST_CASE("infinities are null in JSON", "[report][json]") {
  RunReport report = test::small_report();
  report.layers[0].sums.noise = std::numeric_limits<double>::infinity();
  report.layers[0].scale_max = std::numeric_limits<double>::quiet_NaN();
  const std::string text = report_to_json(report);
  const json document = json::parse(text);
  CHECK(document["layers"][0]["metrics"]["nmse"].is_null());
  CHECK(document["layers"][0]["scale_max"].is_null());
  CHECK(document["layers"][1]["metrics"]["sqnr_db"].is_null());  // an exact layer
  CHECK(document["layers"][1]["metrics"]["nmse"] == 0);
  const RunReport back = report_from_json(text, "x");
  CHECK(back.layers[0].sums.noise == std::numeric_limits<double>::infinity());
  CHECK(back.layers[0].scale_max == std::numeric_limits<double>::infinity());
}

TEST_CASE("bytes that are not UTF-8 do not stop a report", "[report][json]") {
  RunReport report = test::small_report();
  report.model = "/models/\xFF\xFE";
  const RunReport back = report_from_json(report_to_json(report), "x");
  CHECK(back.model == "/models/\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_CASE("hostile texts round-trip as they are", "[report][json]") {
  const RunReport report = test::hostile_report();
  check_equal(report_from_json(report_to_json(report), "x"), report);
}

TEST_CASE("how a layer was pruned is written and read", "[report][json]") {
  RunReport report = test::small_report();
  report.layers[0].sparsity = SparsityRecord{"SparseGPTModifier", "2:4", 2, 4, 3};
  const std::string text = report_to_json(report);
  const RunReport read = report_from_json(text, "dir/report.json");
  REQUIRE(read.layers[0].sparsity);
  CHECK(read.layers[0].sparsity->modifiers == "SparseGPTModifier");
  CHECK(read.layers[0].sparsity->pattern == "2:4");
  CHECK(read.layers[0].sparsity->keep == 2);
  CHECK(read.layers[0].sparsity->of == 4);
  CHECK(read.layers[0].sparsity->violations == 3);
  CHECK_FALSE(read.layers[1].sparsity);
  CHECK(report_to_json(read) == text);
  json document = json::parse(text);
  document["layers"][0]["sparsity"]["keep"] = 5;
  CHECK_THROWS_AS(report_from_json(document.dump(), "dir/report.json"), Error);
}

TEST_CASE("JSON that is no report is refused", "[report][json]") {
  check_refused("", "not valid JSON");
  check_refused("{", "not valid JSON");
  check_refused("[]", "the document is not an object but array");
  check_refused("null", "the document is not an object but null");
  check_refused("{}", "'schema_version' is missing");
  check_refused("{\"schema_version\": 5}", "'schema_version' is 5; this version reads 1 to 4", ErrorCode::unsupported);
  check_refused("{\"schema_version\": 0}", "'schema_version' is 0; this version reads 1 to 4", ErrorCode::unsupported);
  check_refused("{\"schema_version\": -1}", "'schema_version' is not a whole number");
  check_refused("{\"schema_version\": 1.0}", "'schema_version' is not a whole number");
  check_refused("{\"schema_version\": 1, \"schema_version\": 1}", "the key 'schema_version' occurs twice");
  check_refused(std::string(200000, '['), "not valid JSON");
  check_refused(std::string(100000, '[') + std::string(100000, ']'), "the document is not an object but array");
  check_refused(report_to_json(test::small_report()) + "x", "not valid JSON");
  check_refused("\xFF", "not valid JSON");
}

TEST_CASE("every missing key is named", "[report][json]") {
  const json whole = json::parse(report_to_json(test::evaluated_report()));
  std::size_t removed = 0;
  const json flat = whole.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    // Keys of derived values may be anything; they are not read.
    if (pointer.find("/metrics") != std::string::npos || pointer.find("/totals/by_kind") == 0 ||
        pointer.find("/totals/worst") == 0 || pointer.find("/totals/sums") == 0) {
      continue;
    }
    if (pointer.ends_with("/peak_resident_memory")) continue;  // of systems that tell it
    const json::json_pointer place(pointer);
    if (whole[place.parent_pointer()].is_array()) continue;
    json document = whole;
    document[place.parent_pointer()].erase(place.back());
    check_refused(document.dump(), place.back() + "' is missing");
    ++removed;
  }
  CHECK(removed > 100);
}

TEST_CASE("resident memory may be left out", "[report][json]") {
  RunReport report = test::evaluated_report();
  report.peak_resident_memory = 5000;
  json document = json::parse(report_to_json(report));
  CHECK(document.at("run").at("peak_resident_memory") == 5000);
  CHECK(document.at("run").at("evaluation").at("peak_resident_memory") == 1100);
  document.at("run").erase("peak_resident_memory");
  document.at("run").at("evaluation").erase("peak_resident_memory");
  const RunReport without = report_from_json(document.dump(), "test");
  CHECK(without.peak_resident_memory == 0);
  CHECK(without.evaluation->peak_resident_memory == 0);
  CHECK(report_to_json(without).find("peak_resident_memory") == std::string::npos);
}

TEST_CASE("wrong types and values are named", "[report][json]") {
  check_changed("/layers", 5, "'layers' is not a list but has number");
  check_changed("/layers/1", "x", "'layers[1]' is not an object but string");
  check_changed("/layers/0/module", 5, "'layers[0].module' is not a string");
  check_changed("/layers/0/shape", json::array({-1, 2}), "'layers[0].shape' is not a list of whole numbers");
  check_changed("/layers/0/shape", json::array({1.5}), "'layers[0].shape' is not a list of whole numbers");
  check_changed("/layers/0/shape", json(std::vector<int>(65, 1)), "'layers[0].shape' has 65 dimensions");
  check_changed("/layers/0/bytes_before", -3, "'layers[0].bytes_before' is not a whole number");
  check_changed("/layers/0/bytes_before", 1e30, "'layers[0].bytes_before' is not a whole number");
  check_changed("/layers/0/sums/noise", "1", "'layers[0].sums.noise' is not a number or null");
  check_changed("/layers/0/sums/noise", -1.0, "'layers[0].sums' has a negative");
  check_changed("/layers/0/sums/clipped", 9, "'layers[0].sums' counts 9 clipped");
  check_changed("/layers/0/notes", json::array({1}), "'layers[0].notes' is not a list of strings");
  check_changed("/layers/0/note", "x", "'layers[0]' has the unknown key 'note'");
  check_changed("/skipped/0/extra", "x", "'skipped[0]' has the unknown key 'extra'");
  check_changed("/extra", 1, "the document has the unknown key 'extra'");
  check_changed("/" + std::string(500, 'k'), 1, "...'");
  check_changed("/totals/layers", 7, "'totals.layers' says 7, but the report lists 2");
  check_changed("/run/layer_seconds", json::array({1.0}), "'run.layer_seconds' has 1 entries for 2 layers");
  check_changed("/recipe", nullptr, "'recipe' is not an object but null");
  check_changed("/recipe/name", nullptr, "'recipe.name' is not a string");
}
