#include "fakes.h"
#include "quant/logical_tensors.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

FakeCheckpoint mixed_checkpoint(const FakeLinear& linear) {
  FakeCheckpoint checkpoint;
  checkpoint.set_config("{}", kFakeQuantization);
  checkpoint.add("norm.weight", {3}, {1, 2, 3});
  add_linear(checkpoint, "up", 7, 10, linear);
  checkpoint.add("experts", {2, 2, 3}, Numbers(5).many(12));
  checkpoint.add_bytes("mask", DType::BOOL, {4}, std::vector<std::byte>(4));
  checkpoint.add("scalar", {}, {4.5F});
  checkpoint.add("empty", {0, 5}, {});
  return checkpoint;
}

}  // namespace

TEST_CASE("a quantized checkpoint is seen as its plain matrices", "[logical]") {
  const FakeLinear linear = make_linear(7, 10, 1);
  const FakeCheckpoint checkpoint = mixed_checkpoint(linear);
  const Registry registry = fake_registry();
  const LogicalTensors tensors(checkpoint, registry);
  REQUIRE(tensors.tensors().size() == 6);
  CHECK(tensors.layout() != nullptr);
  const LogicalTensor* up = tensors.find("up.weight");
  REQUIRE(up != nullptr);
  CHECK(up->linear != nullptr);
  CHECK(up->plain == nullptr);
  CHECK(up->shape == Shape{7, 10});
  CHECK(up->dtype == DType::F16);
  CHECK(up->stored_bytes == 70 + 7 * 3 * 4 + 7 * 3);
  CHECK(&tensors.tensors()[1] == up);  // at the place of its first part
  CHECK(tensors.find("up.weight_packed") == nullptr);
  CHECK(tensors.find("nothing") == nullptr);
}

TEST_CASE("rows are read from any place, whatever the layout's alignment", "[logical]") {
  const FakeLinear linear = make_linear(7, 10, 2);
  const FakeCheckpoint checkpoint = mixed_checkpoint(linear);
  const Registry registry = fake_registry();
  const LogicalTensors tensors(checkpoint, registry);
  const LogicalTensor& up = *tensors.find("up.weight");
  for (std::uint64_t first = 0; first <= 7; ++first) {
    for (std::uint64_t count = 0; first + count <= 7; ++count) {
      std::vector<float> rows(count * 10);
      tensors.read_rows(up, first, count, rows);
      CHECK(std::equal(rows.begin(), rows.end(), linear.values.begin() + static_cast<std::ptrdiff_t>(first * 10)));
    }
  }
  CHECK(tensors.block_rows(up) % 3 == 0);
}

TEST_CASE("tensors of any rank are matrices of their last dimension", "[logical]") {
  const FakeCheckpoint checkpoint = mixed_checkpoint(make_linear(7, 10, 3));
  const Registry registry = fake_registry();
  const LogicalTensors tensors(checkpoint, registry);
  const LogicalTensor& experts = *tensors.find("experts");
  CHECK(experts.rows == 4);
  CHECK(experts.cols == 3);
  std::vector<float> rows(6);
  tensors.read_rows(experts, 1, 2, rows);
  const std::vector<float> all = Numbers(5).many(12);
  CHECK(std::equal(rows.begin(), rows.end(), all.begin() + 3));
  const LogicalTensor& norm = *tensors.find("norm.weight");
  CHECK(norm.rows == 3);
  CHECK(norm.cols == 1);
  std::vector<float> one(1);
  tensors.read_rows(norm, 2, 1, one);
  CHECK(one[0] == 3.0F);
  tensors.read_rows(*tensors.find("scalar"), 0, 1, one);
  CHECK(one[0] == 4.5F);
  CHECK(tensors.find("empty")->count() == 0);
  CHECK_FALSE(tensors.find("mask")->numeric);
  CHECK_THROWS_AS(tensors.read_rows(norm, 2, 2, rows), Error);
  CHECK_THROWS_AS(tensors.read_rows(norm, 0, 1, rows), Error);
  std::vector<float> four(4);
  CHECK_THROWS_AS(tensors.read_rows(*tensors.find("mask"), 0, 4, four), Error);
}

TEST_CASE("a quantization that nothing reads is named", "[logical]") {
  FakeCheckpoint checkpoint;
  checkpoint.add("a.weight", {1}, {1});
  checkpoint.set_config("{}", R"({"quant_method": "gptq"})");
  const Registry registry = fake_registry();
  try {
    const LogicalTensors tensors(checkpoint, registry);
    FAIL("read");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(std::string(error.what()).find("'gptq'") != std::string::npos);
  }
  checkpoint.set_config("{}", "");
  CHECK(layout_of(checkpoint, registry) == nullptr);
  ModelConfig config;
  for (const char* odd : {"", "[]", "{", "{}", R"({"quant_method": 3})"}) {
    config.quantization_config = odd;
    CHECK(quantization_method(config).empty());
  }
}

TEST_CASE("a weight that is there plain and quantized is refused", "[logical]") {
  FakeCheckpoint checkpoint;
  checkpoint.set_config("{}", kFakeQuantization);
  add_linear(checkpoint, "up", 2, 4, make_linear(2, 4, 4));
  checkpoint.add("up.weight", {2, 4}, Numbers(1).many(8));
  const Registry registry = fake_registry();
  CHECK_THROWS_AS(LogicalTensors(checkpoint, registry), Error);
}
