// Factors of an earlier search are part of what a run is: --resume refuses other ones.
#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

std::string recipe(const std::string& field, const fs::path& folder) {
  return "s_stage:\n  s_modifiers:\n    SmoothQuantModifier: {" + field + ": " + folder.string() +
         "}\nq_stage:\n  q_modifiers:\n    QuantizationModifier: {targets: [Linear], scheme: W8A8, ignore: "
         "[lm_head]}\n";
}

std::vector<std::string> command(const std::string& name, const fs::path& file) {
  return {name,
          file.string(),
          "--model",
          example_model(),
          "--calibration",
          example_model() + "/calibration.txt",
          "--samples",
          "2",
          "--seq-len",
          "32"};
}

std::string identity(const fs::path& file) {
  auto arguments = command("plan", file);
  arguments.emplace_back("--json");
  return json_of(run_quant(arguments, {"OMP_WAIT_POLICY=passive"})).at("identity");
}

}  // namespace

TEST_CASE("files of factors are part of the plan's identity", "[smoothing]") {
  const TempDir dir;
  const fs::path factors = dir / "factors";
  write_file(dir / "export.yaml", recipe("export_factors", factors));
  write_file(dir / "import.yaml", recipe("import_factors", factors));
  auto exporting = command("run", dir / "export.yaml");
  exporting.insert(exporting.end(), {"--output", (dir / "a").string(), "--quiet"});
  REQUIRE(run_quant(exporting, {"OMP_WAIT_POLICY=passive"}).code == 0);
  const fs::path file = factors / "model.layers.0.input_layernorm.json";
  REQUIRE(fs::exists(file));

  const std::string before = identity(dir / "import.yaml");
  CHECK(identity(dir / "import.yaml") == before);
  const std::string text = read_file(file);
  write_file(file, text + " ");
  CHECK(identity(dir / "import.yaml") != before);
  write_file(file, text);
  CHECK(identity(dir / "import.yaml") == before);

  // A partial run that was begun with other factors.
  auto importing = command("run", dir / "import.yaml");
  const fs::path output = dir / "b";
  importing.insert(importing.end(), {"--output", output.string(), "--quiet"});
  REQUIRE(run_quant(importing, {"OMP_WAIT_POLICY=passive"}).code == 0);
  fs::create_directories(dir / "b.partial");
  fs::rename(output / "report.json", dir / "b.partial/report.json");
  fs::remove_all(output);
  fs::remove(file);
  importing.emplace_back("--resume");
  const Outcome refused = run_quant(importing);
  INFO(refused.err);
  CHECK(refused.code == 6);
  CHECK(has(refused.err, "files that the recipe names"));
}

TEST_CASE("factors that cannot be used are problems of the plan", "[smoothing]") {
  const TempDir dir;
  write_file(dir / "absent.yaml", recipe("import_factors", dir / "nowhere"));
  const Outcome absent = run_quant(command("plan", dir / "absent.yaml"));
  CHECK(absent.code == 3);
  CHECK(has(absent.err, "nowhere"));
  fs::create_directories(dir / "factors");
  write_file(dir / "factors/model.layers.0.input_layernorm.json", "[]");
  write_file(dir / "bad.yaml", recipe("import_factors", dir / "factors"));
  const Outcome bad = run_quant(command("plan", dir / "bad.yaml"));
  CHECK(bad.code == 3);
  CHECK(has(bad.err, "model.layers.0.input_layernorm.json"));
}
