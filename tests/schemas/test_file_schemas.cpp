// Files that the program writes are valid against docs/schemas, and the versions there are those of the code.
#include "cli/run_quant.h"
#include "quant/error.h"
#include "quant/report.h"
#include "quant/sensitivity.h"
#include "quant/statistics_file.h"
#include "schemas/schema.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;
using nlohmann::json;

namespace {

json file_json(const std::filesystem::path& file) { return json::parse(read_file(file)); }

/// What every valid file of `schema` is valid against, and what becomes of it with another version or a stray key.
void check_strict(const json& schema, const json& value, const json::json_pointer& version) {
  json other = value;
  other[version] = other[version].get<int>() + 100;
  CHECK_FALSE(violations(schema, other).empty());
  other = value;
  other[version.parent_pointer()]["stray"] = 1;
  CHECK_FALSE(violations(schema, other).empty());
}

Arguments run_arguments(const std::string& recipe, const std::filesystem::path& output, const Arguments& more) {
  return with({"run", recipe, "--model", example_model(), "--output", output.string(), "--quiet"}, more);
}

Arguments calibration() {
  return {"--calibration", example_model() + "/calibration.txt", "--seq-len", "64", "--samples", "4"};
}

void succeed(const Arguments& arguments) {
  const Outcome outcome = quietly(arguments);
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("reports are valid: plain, calibrated, evaluated, of imported statistics, pruned") {
  const json schema = schema_document("report");
  CHECK(schema.at("properties").at("schema_version").at("const") == kReportSchemaVersion);
  const TempDir dir;
  const auto check = [&](const std::string& name) {
    const json report = file_json(dir / name / "report.json");
    INFO(name);
    CHECK(violations(schema, report) == "");
    return report;
  };
  succeed(
      run_arguments("w4a16", dir / "plain",
                    {"--eval", example_model() + "/evaluation.txt", "--eval-seq-len", "32", "--eval-windows", "2"}));
  const json plain = check("plain");
  CHECK(plain.contains("evaluation"));
  check_strict(schema, plain, "/schema_version"_json_pointer);
  const std::string statistics = (dir / "statistics.h5").string();
  succeed(run_arguments("w8a8_gptq", dir / "calibrated",
                        with(calibration(), {"--save-statistics", statistics, "--block-errors"})));
  CHECK(check("calibrated").contains("calibration"));
  succeed(run_arguments("w8a8_gptq", dir / "imported", {"--statistics", statistics}));
  CHECK(check("imported").at("calibration").contains("statistics"));
  succeed(run_arguments("magnitude50", dir / "pruned", {}));
  CHECK(check("pruned").at("layers").at(0).contains("sparsity"));

  const json tree_schema = schema_document("calibration-statistics");
  CHECK(tree_schema.at("properties").at("attributes").at("properties").at("schema_version").at("const") ==
        kStatisticsSchemaVersion);
  const json tree = json_of_hdf5(statistics);
  CHECK(violations(tree_schema, tree) == "");
  check_strict(tree_schema, tree, "/attributes/schema_version"_json_pointer);
  CHECK(tree.at("inputs").size() == 42);
  const json& input = tree.at("inputs").at("model.layers.0.self_attn.q_proj");
  CHECK(input == tree.at("inputs").at("model.layers.0.self_attn.k_proj"));
  CHECK(input.at("attributes") == json{{"cols", 256}, {"tokens", 256}});
  CHECK(input.at("gram_upper").at("shape") == json{256 * 257 / 2});
}

TEST_CASE("config.json of the layout libquant is valid, with the newest version that is read") {
  const json schema = schema_document("native-layout");
  const int newest =
      schema.at("properties").at("quantization_config").at("properties").at("version").at("maximum").get<int>();
  const TempDir dir;
  const auto version = "/quantization_config/version"_json_pointer;
  const auto check = [&](const std::string& recipe, const Arguments& more, int expected) {
    succeed(run_arguments(recipe, dir / recipe, with({"--layout", "libquant"}, more)));
    const json config = file_json(dir / recipe / "config.json");
    INFO(recipe << config.at("quantization_config").dump(1).substr(0, 2000));
    CHECK(violations(schema, config) == "");
    check_strict(schema, config, version);
    CHECK(config.at(version) == expected);
  };
  check("kmeans3_sparse", {"--set", "importance=none"}, 1);
  check("hqq", {}, 1);
  check("nf4_double_quant", {}, 1);
  check("ternary", {}, 1);
  check("gguf_q4_k_m", {}, 1);
  check("magnitude50", {}, newest);

  json config = file_json(dir / "magnitude50" / "config.json");
  config[version] = newest + 1;
  write_file(dir / "magnitude50" / "config.json", config.dump());
  const Outcome refused = run_quant({"inspect", (dir / "magnitude50").string()});
  INFO(refused.out << refused.err);
  CHECK((refused.out + refused.err).find("this program reads up to " + std::to_string(newest)) != std::string::npos);
}

TEST_CASE("reports of sensitivity are valid, with the version that is read") {
  const json schema = schema_document("sensitivity");
  const TempDir dir;
  const std::string file = (dir / "sensitivity.json").string();
  succeed({"sensitivity", example_model(), "--calibration", example_model() + "/calibration.txt", "--samples", "1",
           "--seq-len", "32", "--measure", "output", "--schemes", "W4G128,W8", "--output", file, "--quiet"});
  json report = file_json(file);
  CHECK(violations(schema, report) == "");
  check_strict(schema, report, "/version"_json_pointer);
  const int version = schema.at("properties").at("version").at("const").get<int>();
  CHECK(report.at("version") == version);
  report["version"] = version + 1;
  CHECK(error_of([&] { parse_sensitivity(report.dump(), "s.json"); }).find("reads " + std::to_string(version)) !=
        std::string::npos);
}
