// What the layout gptq refuses, how it reads files that say wrongly what they are, and hostile ones.
#include "gptq_layout/support.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() { return layout_named("gptq"); }

MemoryCheckpoint valid(int bits = 4, bool symmetric = true, std::optional<std::string> format = std::nullopt) {
  const QuantArgs args = integer_args(bits, symmetric, 32);
  Scheme scheme = scheme_of(args);
  scheme.format = std::move(format);
  QuantizedTensor tensor = random_tensor(layout(), args, 64, 96, 7);
  for (auto& zero : tensor.zero_points)
    zero = std::max<std::int8_t>(zero, static_cast<std::int8_t>(code_min(args) + 1));
  return stored_checkpoint(layout(), scheme, {"m", 64, 96, DType::F16}, tensor, {});
}

void relabel(MemoryCheckpoint& checkpoint, const std::string& key, const nlohmann::json& value) {
  auto config = nlohmann::json::parse(checkpoint.config().quantization_config);
  config[key] = value;
  if (key == "checkpoint_format") config.erase("format");
  checkpoint.mutable_config().quantization_config = config.dump();
}

std::vector<std::int8_t> unpacked_zeros(const MemoryCheckpoint& checkpoint) {
  return read_back(layout(), checkpoint).tensor.zero_points;
}

}  // namespace

TEST_CASE("symmetric files whose label names the other version are read by their zero points") {
  for (const int bits : {2, 3, 4, 8}) {
    for (const char* written : {"gptq", "gptq_v2"}) {
      INFO(bits << " bits in " << written);
      const std::string other = std::string(written) == "gptq" ? "gptq_v2" : "gptq";
      MemoryCheckpoint checkpoint = valid(bits, true, written);
      const ReadBack right = read_back(layout(), checkpoint);
      CHECK(layout().remarks(checkpoint, {right.linear}).empty());
      relabel(checkpoint, "checkpoint_format", other);
      const ReadBack back = read_back(layout(), checkpoint);
      CHECK(back.linear.args.symmetric);
      CHECK(back.linear.format == written);
      CHECK(same_tensor(back.tensor, right.tensor));
      const auto remarks = layout().remarks(checkpoint, {back.linear});
      REQUIRE(remarks.size() == 1);
      CHECK(remarks[0].find("checkpoint_format " + other) != std::string::npos);
      // Where the label says that zero points differ, a constant one is no contradiction.
      relabel(checkpoint, "sym", false);
      CHECK_FALSE(read_back(layout(), checkpoint).linear.args.symmetric);
    }
  }
}

TEST_CASE("names of versions: none and gemm are 1, others are refused") {
  MemoryCheckpoint checkpoint = valid();
  for (const nlohmann::json& name : {nlohmann::json(nullptr), nlohmann::json("gemm")}) {
    relabel(checkpoint, "checkpoint_format", name);
    CHECK(read_back(layout(), checkpoint).linear.format == "gptq");
  }
  for (const char* name : {"marlin", "gptq_p", "bitblas"}) {
    relabel(checkpoint, "checkpoint_format", name);
    CHECK(read_error(layout(), checkpoint).find(name) != std::string::npos);
  }
  relabel(checkpoint, "checkpoint_format", 3);
  CHECK(read_error(layout(), checkpoint).find("checkpoint_format") != std::string::npos);
  checkpoint = valid();
  relabel(checkpoint, "is_marlin_format", true);
  CHECK(read_error(layout(), checkpoint).find("marlin") != std::string::npos);
  checkpoint = valid();
  relabel(checkpoint, "pack_dtype", "int64");
  CHECK(read_error(layout(), checkpoint).find("int64") != std::string::npos);
}

TEST_CASE("a stored field of all ones is the zero point 0, or a borrow that GPTQModel took from its neighbour") {
  // Version 1 of the zero points 0, 5, 1, 8, 8, 8, 8, 8: by field 15, 4, 0, 7, ..., by word 0x77770_3F less one borrow.
  MemoryCheckpoint checkpoint = valid(4, false, "gptq");
  const auto set_word = [&](std::uint32_t word) { std::memcpy(checkpoint.bytes("m.qzeros").data(), &word, 4); };
  const auto first_eight = [&] {
    const auto zeros = unpacked_zeros(checkpoint);
    std::vector<int> values;
    for (std::size_t row = 0; row < 8; ++row) values.push_back(zeros[row * 3] + 8);
    return values;
  };
  const std::vector<int> wanted = {0, 5, 1, 8, 8, 8, 8, 8};
  set_word(0x7777704F);
  CHECK(first_eight() == wanted);
  set_word(0x88888150U - 0x11111111U);
  relabel(checkpoint, "meta", {{"quantizer", {"optimum:2.0", "gptqmodel:5.1.0"}}});
  CHECK(first_eight() == wanted);
  relabel(checkpoint, "meta", {{"quantizer", "gptqmodel:5.1.0"}});
  CHECK(first_eight() == wanted);
}

TEST_CASE("a zero point of 0 is not written in version 1, and is in version 2") {
  const QuantArgs args = integer_args(4, false, 32);
  QuantizedTensor tensor = random_tensor(layout(), args, 32, 32, 1);
  std::fill(tensor.zero_points.begin(), tensor.zero_points.end(), std::int8_t{0});
  tensor.zero_points[5] = -8;
  Scheme scheme = scheme_of(args);
  const LinearShape linear{"m", 32, 32, DType::F16};
  CHECK(layout().format_of(scheme) == "gptq_v2");
  CHECK(read_back(layout(), stored_checkpoint(layout(), scheme, linear, tensor)).tensor.zero_points ==
        tensor.zero_points);
  scheme.format = "gptq";
  try {
    store(layout(), scheme, linear, tensor);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(std::string(error.what()).find("m: row 5 has the zero point 0") != std::string::npos);
  }
}

TEST_CASE("what gptq has no place for is refused in a sentence") {
  const LinearShape linear{"m", 64, 96, DType::F16};
  const auto refused = [&](const QuantArgs& args, std::string_view part, LinearShape shape) {
    const auto reason = layout().unsupported(scheme_of(args), shape);
    INFO(reason.value_or("accepted"));
    CHECK((reason && reason->find(part) != std::string::npos));
  };
  CHECK_FALSE(layout().unsupported(scheme_of(integer_args(3, false, 32)), linear));
  CHECK_FALSE(layout().unsupported(scheme_of(integer_args(8, true, -1)), linear));
  refused(integer_args(5, true, 32), "not 5", linear);
  refused(integer_args(4, true, 64), "group_size 64 does not divide the 96 columns", linear);
  refused(integer_args(4, true, 32), "33x96", {"m", 33, 96, DType::F16});
  refused(integer_args(4, true, -1), "64x100", {"m", 64, 100, DType::F16});
  QuantArgs args = integer_args(4, true, 32);
  args.scale_dtype = DType::BF16;
  refused(args, "BF16", linear);
  args = integer_args(4, true, -1);
  args.strategy = Strategy::tensor;
  refused(args, "strategy tensor", linear);
  args = integer_args(4, false, 32);
  args.zp_dtype = DType::F16;
  refused(args, "real numbers", linear);
  refused(codebook_args(Codebook::nf4, 4, Strategy::group, 32), "whole numbers", linear);
  Scheme scheme = scheme_of(integer_args(4, true, 32));
  scheme.input_activations = integer_args(8, true, -1);
  CHECK(layout().unsupported(scheme, linear)->find("input_activations") == 0);
  scheme = scheme_of(integer_args(4, true, 32));
  scheme.format = "marlin";
  CHECK(layout().unsupported(scheme, linear)->find("marlin") != std::string::npos);
  const SchemeGroup symmetric{"a", scheme_of(integer_args(4, true, 32)), {}};
  const SchemeGroup other{"b", scheme_of(integer_args(4, false, 32)), {}};
  REQUIRE(layout().contradictions({symmetric, other}).size() == 1);
  CHECK(layout().contradictions({symmetric, other})[0].find("format: gptq_v2") != std::string::npos);
}

TEST_CASE("modules with other bits and groups are patterns in config.json, and are found by their shapes") {
  const LinearShape usual{"model.layers.0.up_proj", 64, 96, DType::F16};
  const LinearShape more{"model.layers.1.up_proj", 64, 96, DType::F16};
  const LinearShape other{"model.layers.0.down_proj", 64, 96, DType::F16};
  const SchemeGroup four{"group_0", scheme_of(integer_args(4, true, 32)), {usual, more}};
  const SchemeGroup eight{"group_1", scheme_of(integer_args(8, true, -1)), {other}};
  const std::string text = layout().config_json({}, {eight, four}, {"lm_head", "model.layers.0.gate"});
  const auto config = nlohmann::json::parse(text).at("quantization_config");
  CHECK(config.at("bits") == 4);
  CHECK(config.at("dynamic").at("-:^model\\.layers\\.0\\.gate$") == nlohmann::json::object());
  CHECK(config.at("dynamic").at("+:^model\\.layers\\.0\\.down_proj$") ==
        nlohmann::json({{"bits", 8}, {"group_size", -1}}));
  CHECK(config.at("dynamic").size() == 2);
  const auto files = layout().side_files(text);
  REQUIRE(files.size() == 1);
  CHECK(files[0].name == "quantize_config.json");
  CHECK(nlohmann::json::parse(files[0].text) == config);

  MemoryCheckpoint checkpoint;
  for (const auto& [group, linear] : {std::pair{four, usual}, {eight, other}}) {
    const QuantizedTensor tensor = random_tensor(layout(), *group.scheme.weights, 64, 96, 2);
    const auto list = layout().stored(group.scheme, linear);
    const CountingSink sink = store(layout(), group.scheme, linear, tensor);
    for (std::size_t i = 0; i < list.size(); ++i) {
      checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
    }
  }
  checkpoint.mutable_config().quantization_config = config.dump();
  const auto linears = layout().find_linears(checkpoint);
  REQUIRE(linears.size() == 2);
  CHECK(linears[0].args == integer_args(4, true, 32));
  CHECK(linears[1].args == integer_args(8, true, -1));
}

TEST_CASE("without g_idx columns are in order") {
  MemoryCheckpoint checkpoint = valid(3);
  const ReadBack whole = read_back(layout(), checkpoint);
  checkpoint.remove("m.g_idx");
  const ReadBack back = read_back(layout(), checkpoint);
  CHECK(back.linear.shape.cols == 96);
  CHECK(same_tensor(back.tensor, whole.tensor));
}

TEST_CASE("damaged tensors and configurations are named") {
  CHECK(read_error(layout(), valid()).empty());
  const MemoryCheckpoint good = valid();
  for (const TensorInfo& info : good.tensors()) {
    INFO(info.name);
    MemoryCheckpoint checkpoint = valid();
    if (info.name != "m.g_idx") {
      checkpoint.remove(info.name);
      CHECK(read_error(layout(), checkpoint).find("qweight") + read_error(layout(), checkpoint).find(info.name) !=
            2 * std::string::npos);
      CHECK_FALSE(read_error(layout(), checkpoint).empty());
    }
    for (const std::size_t side : {std::size_t{0}, info.shape.size() - 1}) {
      checkpoint = valid();
      Shape shape = info.shape;
      shape[side] += 1;
      checkpoint.set(info.name, info.dtype, shape, std::vector<std::byte>(byte_count(info.dtype, shape)));
      CHECK(read_error(layout(), checkpoint).find("m.") != std::string::npos);
    }
    checkpoint = valid();
    checkpoint.set(info.name, DType::U8, {info.bytes}, std::vector<std::byte>(info.bytes));
    CHECK(read_error(layout(), checkpoint).find(info.name) != std::string::npos);
    checkpoint.set(info.name, info.dtype, {0, 0}, {});
    CHECK(read_error(layout(), checkpoint).find("m.") != std::string::npos);
  }
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"bits", "four"}, {"bits", 1LL << 40}, {"group_size", 0.5}, {"group_size", -7}, {"sym", 1}}) {
    MemoryCheckpoint checkpoint = valid();
    relabel(checkpoint, key, value);
    INFO(key << " " << value.dump());
    CHECK(read_error(layout(), checkpoint).find(key) != std::string::npos);
  }
  for (const std::int32_t bad : {-1, 3, std::numeric_limits<std::int32_t>::max()}) {
    MemoryCheckpoint checkpoint = valid();
    std::memcpy(checkpoint.bytes("m.g_idx").data() + 8, &bad, 4);
    CHECK(read_error(layout(), checkpoint).find("there are 3 groups") != std::string::npos);
  }
  MemoryCheckpoint infinite = valid();
  const std::uint16_t infinity = 0x7C00;
  std::memcpy(infinite.bytes("m.scales").data(), &infinity, 2);
  CHECK(read_error(layout(), infinite).find("not finite") != std::string::npos);
}
