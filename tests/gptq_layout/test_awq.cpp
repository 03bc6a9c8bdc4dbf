// The layout awq against AutoAWQ's own packers, what it refuses, and hostile files.
#include "gptq_layout/support.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() { return layout_named("awq"); }

const GoldenFile& golden() {
  static const GoldenFile file(golden_path("awq.safetensors"));
  return file;
}

nlohmann::json config_of(const nlohmann::json& item) {
  return {{"quant_method", "awq"},
          {"bits", 4},
          {"group_size", item.at("group")},
          {"zero_point", true},
          {"version", item.at("form")}};
}

MemoryCheckpoint packed(const std::string& name, const nlohmann::json& item) {
  MemoryCheckpoint checkpoint;
  for (const char* part : {"qweight", "qzeros", "scales"}) {
    checkpoint.set(std::string("m.") + part, golden().tensor(name + "." + part));
  }
  checkpoint.mutable_config().quantization_config = config_of(item).dump();
  return checkpoint;
}

// [groups, rows] in gemm and gemv_fast, the latter padded with groups; [rows, padded groups] in gemv.
void take_scales(const std::string& name, const std::string& form, QuantizedTensor& tensor) {
  const auto halves = golden().values<std::uint16_t>(name + ".scales");
  const Shape& shape = golden().tensor(name + ".scales").shape;
  for (std::uint64_t r = 0; r < tensor.rows; ++r) {
    for (std::uint64_t g = 0; g < tensor.grid.cols; ++g) {
      tensor.scales[r * tensor.grid.cols + g] =
          f16_to_f32(halves[form == "gemv" ? r * shape[1] + g : g * shape[1] + r]);
    }
  }
}

MemoryCheckpoint valid() {
  const QuantArgs args = integer_args(4, false, 32);
  return stored_checkpoint(layout(), scheme_of(args), {"m", 64, 96, DType::F16},
                           random_tensor(layout(), args, 64, 96, 7), {});
}

void relabel(MemoryCheckpoint& checkpoint, const std::string& key, const nlohmann::json& value) {
  auto config = nlohmann::json::parse(checkpoint.config().quantization_config);
  config[key] = value;
  checkpoint.mutable_config().quantization_config = config.dump();
}

}  // namespace

TEST_CASE("files of AutoAWQ are read as what was packed, in all three forms") {
  const auto cases = golden_list(golden_path("awq.safetensors"), "awq");
  REQUIRE(cases.size() == 12);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto& item = cases[i];
    const std::string name = std::to_string(i), form = item.at("form");
    INFO(item.dump());
    QuantizedTensor expected = golden_tensor(golden(), name, item, 4);
    take_scales(name, form, expected);
    const MemoryCheckpoint checkpoint = packed(name, item);
    REQUIRE(layout().recognizes(checkpoint.config()));
    const ReadBack back = read_back(layout(), checkpoint);
    CHECK(back.linear.format == form);
    CHECK(back.linear.args == expected.args);
    CHECK(same_tensor(back.tensor, expected));
    QuantizedTensor part;
    layout().read_rows(checkpoint, back.linear, 8, 13, part);
    CHECK(same_tensor(part, slice_of(expected, 8, 13)));
    if (form != "gemm") continue;
    const MemoryCheckpoint again = stored_checkpoint(layout(), scheme_of(expected.args), back.linear.shape, expected);
    for (const char* tensor : {"m.qweight", "m.qzeros", "m.scales"}) {
      INFO(tensor);
      const auto view = again.view(*again.find(tensor)), wanted = checkpoint.view(*checkpoint.find(tensor));
      CHECK((view.shape == wanted.shape && view.dtype == wanted.dtype));
      CHECK(std::equal(view.bytes.begin(), view.bytes.end(), wanted.bytes.begin(), wanted.bytes.end()));
    }
  }
}

TEST_CASE("the word of outputs 0 to 7") {
  const QuantArgs args = integer_args(4, false, -1);
  QuantizedTensor tensor;
  tensor.resize(args, 8, 32);
  for (std::size_t r = 0; r < 8; ++r) {
    tensor.zero_points[r] = static_cast<std::int8_t>(static_cast<int>(r) - 8);
    for (std::size_t c = 0; c < 32; ++c) tensor.codes[r * 32 + c] = static_cast<std::int8_t>(static_cast<int>(r) - 8);
  }
  std::fill(tensor.scales.begin(), tensor.scales.end(), 1.0F);
  const CountingSink sink = store(layout(), scheme_of(args), {"m", 8, 32, DType::F16}, tensor);
  for (const auto& bytes : {sink.bytes[0], sink.bytes[1]}) {
    for (std::size_t at = 0; at < bytes.size(); at += 4) {
      std::uint32_t word = 0;
      std::memcpy(&word, bytes.data() + at, 4);
      CHECK(word == 0x75316420);
    }
  }
}

TEST_CASE("the form is told by shapes where the label is wrong, and llm-awq's names are known") {
  const auto cases = golden_list(golden_path("awq.safetensors"), "awq");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    MemoryCheckpoint checkpoint = packed(std::to_string(i), cases[i]);
    const ReadBack right = read_back(layout(), checkpoint);
    for (const char* label : {"gemm", "gemv", "gemv_fast", "GEMM", "exllama", "marlin", "llm-awq"}) {
      relabel(checkpoint, "version", label);
      INFO(cases[i].dump() << " as " << label);
      const ReadBack back = read_back(layout(), checkpoint);
      CHECK(back.linear.format == cases[i].at("form"));
      CHECK(same_tensor(back.tensor, right.tensor));
    }
    if (cases[i].at("form") != "gemv_fast") continue;
    checkpoint.set("m.scaled_zeros", checkpoint.view(*checkpoint.find("m.qzeros")));
    checkpoint.remove("m.qzeros");
    CHECK(same_tensor(read_back(layout(), checkpoint).tensor, right.tensor));
  }
}

TEST_CASE("what awq has no place for is refused in a sentence") {
  const auto refused = [](const QuantArgs& args, std::string_view part, const LinearShape& shape) {
    const auto reason = layout().unsupported(scheme_of(args), shape);
    INFO(reason.value_or("accepted"));
    CHECK((reason && reason->find(part) != std::string::npos));
  };
  const LinearShape linear{"m", 64, 96, DType::F16};
  CHECK_FALSE(layout().unsupported(scheme_of(integer_args(4, true, 32)), linear));
  refused(integer_args(3, true, 32), "not 3", linear);
  refused(integer_args(4, true, 64), "does not divide", linear);
  refused(integer_args(4, true, 32), "12 rows", {"m", 12, 96, DType::F16});
  refused(integer_args(4, true, 32), "lm_head", {"lm_head", 64, 96, DType::F16});
  QuantArgs ordered = integer_args(4, true, 32);
  ordered.actorder = ActOrder::group;
  refused(ordered, "actorder group", linear);
  const SchemeGroup a{"a", scheme_of(integer_args(4, true, 32)), {}}, b{"b", scheme_of(integer_args(4, true, 96)), {}};
  REQUIRE(layout().contradictions({a, b, a}).size() == 1);
  CHECK(layout().contradictions({a, b})[0].find("a has 32 and b has 96") != std::string::npos);
  const SchemeGroup part{"a", scheme_of(integer_args(4, true, 32)), {{"model.gate_up", 64, 96, DType::F16}}};
  CHECK_THROWS_AS(layout().config_json({}, {part}, {"model.gate"}), Error);
  const auto config = nlohmann::json::parse(layout().config_json({}, {a}, {})).at("quantization_config");
  CHECK(config.at("modules_to_not_convert").is_null());
  CHECK(config.at("zero_point") == true);
}

TEST_CASE("damaged AWQ tensors and configurations are named") {
  CHECK(read_error(layout(), valid()).empty());
  const MemoryCheckpoint good = valid();
  for (const TensorInfo& info : good.tensors()) {
    INFO(info.name);
    MemoryCheckpoint checkpoint = valid();
    checkpoint.remove(info.name);
    CHECK_FALSE(read_error(layout(), checkpoint).empty());
    for (const std::size_t side : {0U, 1U}) {
      checkpoint = valid();
      Shape shape = info.shape;
      shape[side] += 1;
      checkpoint.set(info.name, info.dtype, shape, std::vector<std::byte>(byte_count(info.dtype, shape)));
      CHECK(read_error(layout(), checkpoint).find("m.qweight") != std::string::npos);
    }
    checkpoint = valid();
    checkpoint.set(info.name, DType::U8, {info.bytes}, std::vector<std::byte>(info.bytes));
    CHECK(read_error(layout(), checkpoint).find(info.name) != std::string::npos);
    checkpoint.set(info.name, info.dtype, {0, 0}, {});
    CHECK(read_error(layout(), checkpoint).find("m.") != std::string::npos);
  }
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"bits", 3}, {"bits", "4"}, {"group_size", "x"}, {"group_size", 0}, {"version", 2}, {"version", "other"}}) {
    MemoryCheckpoint checkpoint = valid();
    relabel(checkpoint, key, value);
    INFO(key << " " << value.dump());
    CHECK_FALSE(read_error(layout(), checkpoint).empty());
  }
  const auto cases = golden_list(golden_path("awq.safetensors"), "awq");
  MemoryCheckpoint fast = packed("8", cases[8]);  // a product of scale and zero point that is none
  REQUIRE(cases[8].at("form") == "gemv_fast");
  const std::uint16_t positive = 0x3C00;
  std::memcpy(fast.bytes("m.qzeros").data(), &positive, 2);
  CHECK(read_error(layout(), fast).find("no zero point") != std::string::npos);
}
