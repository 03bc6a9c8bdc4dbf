#include <limits>

#include "fakes.h"
#include "quant/verify.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

// A sound one; tests break it.
FakeCheckpoint sound_checkpoint(const std::filesystem::path& location = "fake") {
  FakeCheckpoint checkpoint(location);
  checkpoint.set_config("{}", kFakeQuantization);
  add_linear(checkpoint, "model.up", 6, 8, make_linear(6, 8, 1));
  checkpoint.add("lm_head.weight", {4, 8}, Numbers(2).many(32));
  checkpoint.add("norm.weight", {8}, Numbers(3).many(8));
  return checkpoint;
}

std::vector<std::string> errors(const Verification& result) {
  std::vector<std::string> checks;
  for (const Finding& finding : result.findings) {
    if (finding.severity == Finding::Severity::error) checks.push_back(finding.check);
  }
  return checks;
}

template <class T>
void poke(FakeCheckpoint& checkpoint, const std::string& name, std::size_t at, T value) {
  std::memcpy(checkpoint.data(name).data() + at * sizeof value, &value, sizeof value);
}

using Checks = std::vector<std::string>;

}  // namespace

TEST_CASE("a sound checkpoint has no findings", "[verify]") {
  const Verification result = verify_checkpoint(sound_checkpoint(), fake_registry());
  CHECK(errors(result) == Checks{});
  CHECK(result.ok());
  CHECK(result.layout == "fake");
  CHECK(result.linears == 1);
  CHECK(result.scales == 12);
  CHECK(result.tensors == 5);
  CHECK(result.bytes == 48 + 48 + 12 + 128 + 32);
}

TEST_CASE("scales that are not finite or zero are found once per linear", "[verify]") {
  FakeCheckpoint checkpoint = sound_checkpoint();
  poke(checkpoint, "model.up.weight_scale", 3, std::numeric_limits<float>::quiet_NaN());
  poke(checkpoint, "model.up.weight_scale", 5, std::numeric_limits<float>::infinity());
  const Verification result = verify_checkpoint(checkpoint, fake_registry());
  REQUIRE(errors(result) == Checks{"scale_not_finite"});
  CHECK(result.findings[0].subject == "model.up");
  CHECK(result.findings[0].message.find("2 scales") != std::string::npos);
  CHECK(result.findings[0].message.find("row 1, column 1") != std::string::npos);
  poke(checkpoint, "model.up.weight_scale", 4, 0.0F);
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"scale_not_finite", "scale_zero"});
}

TEST_CASE("zero points and codes outside their range are found", "[verify]") {
  FakeCheckpoint checkpoint = sound_checkpoint();
  poke(checkpoint, "model.up.weight_zero_point", 11, std::int8_t{8});
  const Verification result = verify_checkpoint(checkpoint, fake_registry());
  REQUIRE(errors(result) == Checks{"zero_point_range"});
  CHECK(result.findings[0].message.find("row 5, column 1") != std::string::npos);
  poke(checkpoint, "model.up.weight_packed", 0, std::int8_t{-9});
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"zero_point_range", "code_range"});
}

TEST_CASE("plain values that are not numbers are found", "[verify]") {
  FakeCheckpoint checkpoint = sound_checkpoint();
  poke(checkpoint, "norm.weight", 6, std::numeric_limits<float>::quiet_NaN());
  const Verification result = verify_checkpoint(checkpoint, fake_registry());
  REQUIRE(errors(result) == Checks{"value_not_finite"});
  CHECK(result.findings[0].subject == "norm.weight");
  CHECK(result.findings[0].message.find("element 6") != std::string::npos);
}

TEST_CASE("config.json must say what is quantized and what is not", "[verify]") {
  FakeCheckpoint checkpoint = sound_checkpoint();
  checkpoint.add("model.down.weight", {8, 8}, Numbers(4).many(64));
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"linear_not_quantized"});

  checkpoint = sound_checkpoint();
  checkpoint.set_config("{}", R"({"quant_method": "fake", "ignore": ["lm_head", "model.up"],
                                  "config_groups": {"g": {"targets": ["Linear"]}}})");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"quantized_but_ignored"});

  checkpoint.set_config("{}", R"({"quant_method": "fake", "ignore": [],
                                  "config_groups": {"g": {"targets": ["re:.*down"]}}})");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"quantized_but_not_targeted"});

  checkpoint.set_config("{}", R"({"quant_method": "fake", "ignore": [3, "lm_head"],
                                  "config_groups": {"g": {"targets": "Linear"}}})");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) ==
        Checks{"config_value", "config_value", "quantized_but_not_targeted"});
}

TEST_CASE("parts without a config or without their linear are found", "[verify]") {
  FakeCheckpoint checkpoint = sound_checkpoint();
  checkpoint.set_config("{}", "");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"quantization_config_missing"});

  checkpoint = sound_checkpoint();
  checkpoint.add("model.lost.weight_scale", {1}, {1});
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"orphan_part"});

  checkpoint = sound_checkpoint();
  checkpoint.add_bytes("model.lost.weight_packed", DType::I8, {1, 1}, std::vector<std::byte>(1));
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"MissingScale"});

  FakeCheckpoint plain;
  plain.set_config("{}", kFakeQuantization);
  plain.add("norm.weight", {1}, {1});
  CHECK(errors(verify_checkpoint(plain, fake_registry())) == Checks{"nothing_quantized"});
  plain.set_config("{}", R"({"quant_method": "awq"})");
  CHECK(errors(verify_checkpoint(plain, fake_registry())) == Checks{"UnknownQuantization"});
  CHECK(errors(verify_checkpoint(FakeCheckpoint(), fake_registry())) == Checks{"empty"});
}

TEST_CASE("the files of the directory are checked", "[verify]") {
  TempDir dir;
  write_file(dir / "model.raw", "");
  FakeCheckpoint checkpoint = sound_checkpoint(dir.path());
  Verification result = verify_checkpoint(checkpoint, fake_registry());
  CHECK(errors(result) == Checks{});
  REQUIRE(result.findings.size() == 1);  // only a warning: there is no report
  CHECK(result.findings[0].check == "report_missing");

  write_file(dir / "model-old.raw", "");
  write_file(dir / "model.raw.index.json", R"({"metadata": {"total_size": 7}, "weight_map": {}})");
  write_file(dir / "report.json", "{ no report");
  checkpoint.set_config("", kFakeQuantization);
  result = verify_checkpoint(checkpoint, fake_registry());
  CHECK(errors(result) == Checks{"config_missing", "index_total_size", "report"});
  CHECK(result.count(Finding::Severity::warning) == 1);
  CHECK_FALSE(result.ok());

  write_file(dir / "model.raw.index.json", "[");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry()))[1] == "index");
  write_file(dir / "model.raw.index.json", R"({"metadata": {"total_size": 268}})");
  CHECK(errors(verify_checkpoint(checkpoint, fake_registry())) == Checks{"config_missing", "report"});
}

TEST_CASE("an error of a reader becomes a finding", "[verify]") {
  const Finding named = finding_of(Error(ErrorCode::corrupt_file, "bad", {}, "HeaderTooLarge"), "file");
  CHECK(named.check == "HeaderTooLarge");
  CHECK(named.subject == "file");
  CHECK(named.message == "bad");
  CHECK(finding_of(Error(ErrorCode::corrupt_file, "bad"), "file").check == "corrupt_file");
  CHECK(to_string(Finding::Severity::warning) == "warning");
}
