// What stands in the way of a calibrated run is said in the plan.
#include "calibrated_fixture.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

bool mentions(const std::vector<std::string>& sentences, const std::string& text) {
  return std::any_of(sentences.begin(), sentences.end(),
                     [&](const std::string& sentence) { return sentence.find(text) != std::string::npos; });
}

std::string all(const std::vector<std::string>& sentences) {
  std::string text;
  for (const std::string& sentence : sentences) text += sentence + "\n";
  return text;
}

}  // namespace

TEST_CASE("a calibrated plan says what it costs") {
  CalibratedModel model;
  const Plan plan = model.plan(probe("ProbeAll"));
  INFO(all(plan.problems));
  REQUIRE(plan.problems.empty());
  REQUIRE(plan.calibration);
  CHECK(plan.calibration->tokens == 192);
  CHECK(plan.calibration->sequences == 12);
  CHECK(plan.calibration->longest == 16);
  CHECK(plan.calibration->family == "llama");
  CHECK(plan.calibration->blocks == 2);
  CHECK_FALSE(plan.calibration->second_stream);
  // Two blocks of 2 (2 h h + 2 h kv + 3 h i) per token, less the last down_proj, and attention.
  const double h = 32;
  const double linears = 2 * (2 * h * h + 2 * h * 16 + 3 * h * 48);
  const double attention = 2 * 4 * (17.0 / 2) * (8 + 8);
  CHECK(std::abs(plan.calibration->product_operations / (192 * (2 * (linears + attention) - 2 * h * 48)) - 1) < 1e-9);
  CHECK(plan.calibration->gram_operations == 192 * 2 * (3 * h * h + 48 * 48));
  CHECK(plan.peak_memory > 0);
  CHECK(plan.seconds_estimate > 0);
  CHECK(model.plan(probe("ProbeCross")).calibration->second_stream);
}

TEST_CASE("calibrated recipes without data are refused, data-free ones are not") {
  CalibratedModel model;
  model.options.calibration.file.clear();
  CHECK(
      mentions(model.plan(probe("ProbeAll")).problems, "ProbeAllModifier needs calibration data: give --calibration"));
  CHECK(model
            .plan("    QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head], "
                  "bypass_divisibility_checks: true}\n")
            .calibration == std::nullopt);
}

TEST_CASE("data that do not fit the model are refused") {
  CalibratedModel model;
  write_ids(model.dir / "large.npy", 4, 16, 500);
  model.options.calibration.file = model.dir / "large.npy";
  CHECK(mentions(model.plan(probe("ProbeAll")).problems, "vocabulary has 50 entries"));
  model.options.calibration.file = model.dir / "missing.npy";
  CHECK(mentions(model.plan(probe("ProbeAll")).problems, "missing.npy"));
  write_file(model.dir / "text.txt", "some text");
  model.options.calibration.file = model.dir / "text.txt";
  CHECK(mentions(model.plan(probe("ProbeAll")).problems, "tokenizer.json"));
}

TEST_CASE("a model that cannot be run is refused, with all other problems") {
  TempDir dir;
  write_tiny_llama(dir / "model", {}, "martian");
  const auto checkpoint = open_checkpoint(dir / "model");
  const Plan plan = make_plan(*checkpoint, probe_recipe(probe("ProbeAll")), probe_registry(), {});
  INFO(all(plan.problems));
  CHECK(mentions(plan.problems, "martian"));
  CHECK(mentions(plan.problems, "llama"));
  CHECK(mentions(plan.problems, "--calibration"));
  const Recipe plain = probe_recipe(
      "    QuantizationModifier:\n      targets: [Linear]\n      ignore: [lm_head]\n      scheme: FP8_DYNAMIC\n");
  CHECK(make_plan(*checkpoint, plain, probe_registry(), {}).problems.empty());
}

TEST_CASE("fewer sequences than asked for are a warning") {
  CalibratedModel model;
  model.options.calibration.data.samples = 100;
  CHECK(mentions(model.plan(probe("ProbeAll")).warnings, "gives 12 sequences, not 100"));
}

TEST_CASE("a transform with nothing to do is a warning") {
  CalibratedModel model;
  const Plan plan = model.plan("    ProbeTransformModifier: {ignore: ['re:.*']}\n" + probe("ProbeAll"));
  INFO(all(plan.problems));
  CHECK(mentions(plan.warnings, "rescales nothing"));
}

TEST_CASE("a head that is quantized without being rescaled is a warning") {
  CalibratedModel model;
  const std::string transform = "    ProbeTransformModifier: {}\n";
  const std::string text = "ProbeTransformModifier rescales the inputs of blocks, not those of lm_head";
  CHECK(mentions(model.plan(transform + probe("ProbeAll", 3, "", "")).warnings, text));
  CHECK_FALSE(mentions(model.plan(transform + probe("ProbeAll")).warnings, text));
  CHECK_FALSE(mentions(model.plan(probe("ProbeAll", 3, "", "")).warnings, text));
  CHECK_FALSE(mentions(
      model.plan("    ProbeTransformModifier: {ignore: [lm_head]}\n" + probe("ProbeAll", 3, "", "")).warnings, text));
}

TEST_CASE("the plan's identity knows the data") {
  CalibratedModel model;
  const std::string first = model.plan(probe("ProbeAll")).identity;
  CHECK(first == model.plan(probe("ProbeAll")).identity);
  model.options.threads = 5;
  CHECK(first == model.plan(probe("ProbeAll")).identity);
  model.options.calibration.data.samples = 11;
  CHECK(first != model.plan(probe("ProbeAll")).identity);
}
