#include "layout_helpers.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() {
  static const auto instance = make_compressed_tensors();
  return *instance;
}

/// The golden case as the Python package stored it.
MemoryCheckpoint golden_checkpoint(const GoldenFile& golden, const GoldenCase& item, const std::string& prefix = "") {
  MemoryCheckpoint checkpoint;
  for (const auto& suffix : item.stored) {
    const std::string old = item.name + "/" + prefix + suffix;
    checkpoint.set("m." + suffix, golden.tensor(golden.has(old) ? old : item.name + "/" + suffix));
  }
  const std::string text = layout().config_json({}, {{"group_0", item.scheme}}, {});
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  return checkpoint;
}

void change_config(MemoryCheckpoint& checkpoint, const std::function<void(nlohmann::json&)>& change) {
  auto config = nlohmann::json::parse(checkpoint.config().quantization_config);
  change(config);
  checkpoint.mutable_config().quantization_config = config.dump();
}

QuantizedTensor read_all(const MemoryCheckpoint& checkpoint, const StoredLinear& linear) {
  QuantizedTensor tensor;
  layout().read_rows(checkpoint, linear, 0, linear.shape.rows, tensor);
  return tensor;
}

void check_slices(const MemoryCheckpoint& checkpoint, const StoredLinear& linear, const QuantizedTensor& whole) {
  QuantizedTensor slice;
  const std::uint64_t step = layout().read_alignment(linear);
  for (std::uint64_t first = 0; first < whole.rows; first += step) {
    const std::uint64_t count = std::min(step, whole.rows - first);
    layout().read_rows(checkpoint, linear, first, count, slice);
    REQUIRE(same_values(slice, slice_of(whole, first, count)));
  }
}

}  // namespace

TEST_CASE("tensors of the Python package are read back exactly") {
  const GoldenFile& golden = compressed_tensors_golden();
  for (const auto& item : golden.cases()) {
    CAPTURE(item.name);
    const MemoryCheckpoint checkpoint = golden_checkpoint(golden, item);
    REQUIRE(layout().recognizes(checkpoint.config()));
    const auto linears = layout().find_linears(checkpoint);
    REQUIRE(linears.size() == 1);
    CHECK(linears[0].shape.module == "m");
    CHECK(linears[0].format == item.format);
    CHECK(linears[0].tensors.size() == item.stored.size());
    const QuantizedTensor expected = golden_tensor(golden, item, layout());
    CHECK(linears[0].scale_dtype == expected.scale_dtype);
    const QuantizedTensor tensor = read_all(checkpoint, linears[0]);
    CHECK(same_values(tensor, expected));
    check_slices(checkpoint, linears[0], expected);
  }
}

TEST_CASE("values equal those of the Python package's decompression") {
  const GoldenFile& golden = compressed_tensors_golden();
  int compared = 0;
  for (const auto& item : golden.cases()) {
    if (!golden.has(item.name + "/dequantized")) continue;
    CAPTURE(item.name);
    ++compared;
    const MemoryCheckpoint checkpoint = golden_checkpoint(golden, item);
    const QuantizedTensor tensor = read_all(checkpoint, layout().find_linears(checkpoint).at(0));
    const auto expected = golden.values<float>(item.name + "/dequantized");
    const bool in_bf16 = is_mx(tensor.args) || is_nvfp4(tensor.args);  // the type to which the package unpacks these
    std::vector<float> row(tensor.cols);
    for (std::uint64_t r = 0; r < tensor.rows; ++r) {
      dequantize_row(tensor, r, row);
      for (std::uint64_t c = 0; c < tensor.cols; ++c) {
        const float value = in_bf16 ? round_to_dtype(DType::BF16, row[c]) : row[c];
        REQUIRE(value == expected[r * tensor.cols + c]);
      }
    }
  }
  CHECK(compared >= 6);
}

TEST_CASE("the packing of versions before 0.18 is told by its shape, and by the version where shapes agree") {
  const GoldenFile& golden = compressed_tensors_golden();
  int compared = 0;
  for (const auto& item : golden.cases()) {
    if (!golden.has(item.name + "/old_weight_packed")) continue;
    CAPTURE(item.name);
    ++compared;
    MemoryCheckpoint checkpoint = golden_checkpoint(golden, item, "old_");
    const auto bits = static_cast<std::uint64_t>(item.scheme.weights->num_bits);
    const TensorView& codes = golden.tensor(item.name + "/codes");
    const bool ambiguous = (codes.shape[1] * bits + 31) / 32 == checkpoint.find("m.weight_packed")->shape[1];
    const std::string versions[] = {"0.17.1", "0.9", "", ambiguous ? "0.17.0" : "0.18.0"};
    for (const auto& version : versions) {
      change_config(checkpoint, [&](auto& config) {
        if (version.empty())
          config.erase("version");
        else
          config["version"] = version;
      });
      const auto linear = layout().find_linears(checkpoint).at(0);
      CHECK(linear.format == "pack-quantized-0.17");
      const QuantizedTensor expected = golden_tensor(golden, item, layout());
      CHECK(same_values(read_all(checkpoint, linear), expected));
      check_slices(checkpoint, linear, expected);
    }
  }
  CHECK(compared == 16);
}

TEST_CASE("every format comes back, also with ragged blocks and odd sizes") {
  struct Case {
    std::string preset;
    std::uint64_t rows, cols;
  };
  for (const Case& item : {Case{"W4A16", 37, 256},
                           {"W3A16", 3, 128},
                           {"W4A16_ASYM", 65, 128},
                           {"W8A8", 7, 13},
                           {"FP8_DYNAMIC", 5, 3},
                           {"FP8_BLOCK", 130, 200},
                           {"NVFP4A16", 9, 48},
                           {"MXFP4", 2, 64},
                           {"MXFP8", 6, 32},
                           {"W4AFP8", 3, 128},
                           {"W7A16", 4, 128}}) {
    CAPTURE(item.preset);
    const Scheme scheme = *preset_scheme(item.preset);
    Scheme targeted = scheme;
    targeted.targets = {"re:.*proj"};
    const LinearShape shape{"model.layers.0.q_proj", item.rows, item.cols, DType::BF16};
    const QuantizedTensor tensor = random_tensor(*scheme.weights, item.rows, item.cols, 11);
    const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), targeted, shape, tensor);
    const auto linear = layout().find_linears(checkpoint).at(0);
    CHECK(linear.shape.rows == item.rows);
    CHECK(linear.shape.cols == item.cols);
    CHECK(linear.args.num_bits == scheme.weights->num_bits);
    CHECK(linear.format == layout().format_of(scheme));
    CHECK(same_values(read_all(checkpoint, linear), tensor));
  }
}

TEST_CASE("a short last group comes back in every format that may have one") {
  struct Case {
    std::string format;
    NumberType type;
    int bits;
    bool symmetric;
    ActOrder order = ActOrder::none;
  };
  const Case cases[] = {{"pack-quantized", NumberType::integer, 4, true},
                        {"pack-quantized", NumberType::integer, 3, false},
                        {"pack-quantized", NumberType::integer, 4, true, ActOrder::group},
                        {"int-quantized", NumberType::integer, 8, false},
                        {"naive-quantized", NumberType::integer, 5, true},
                        {"float-quantized", NumberType::floating, 8, true},
                        {"naive-quantized", NumberType::floating, 8, true}};
  for (const Case& item : cases) {
    for (const std::uint64_t cols : {1, 23, 24, 25, 47, 71}) {
      CAPTURE(item.format);
      CAPTURE(cols);
      Scheme scheme;
      scheme.targets = {"Linear"};
      scheme.format = item.format;
      QuantArgs& args = scheme.weights.emplace();
      args.type = item.type;
      args.num_bits = item.bits;
      args.symmetric = item.symmetric;
      args.strategy = Strategy::group;
      args.group_size = 24;
      if (item.order == ActOrder::group) args.actorder = item.order;
      const LinearShape shape{"m", 35, cols, DType::F16};
      REQUIRE_FALSE(layout().unsupported(scheme, shape));
      QuantizedTensor tensor = random_tensor(args, shape.rows, shape.cols, 17);
      const std::uint64_t groups = (cols + 23) / 24;
      REQUIRE(tensor.grid.cols == groups);
      for (std::uint64_t c = 0; item.order == ActOrder::group && c < cols; ++c) {
        tensor.group_index.push_back(static_cast<std::int32_t>(c % groups));
      }
      REQUIRE(store(layout(), scheme, shape, tensor).complete());
      const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), scheme, shape, tensor);
      const auto linear = layout().find_linears(checkpoint).at(0);
      CHECK(linear.args.group_size == 24);
      CHECK(linear.shape.cols == cols);
      CHECK(same_values(read_all(checkpoint, linear), tensor));
      check_slices(checkpoint, linear, tensor);
    }
  }
}

TEST_CASE("8-bit floats of either kind are told by the tensor") {
  Scheme scheme = *preset_scheme("FP8_DYNAMIC");
  scheme.targets = {"Linear"};
  scheme.weights->observer_kwargs["float8_format"] = std::string("e5m2");
  const QuantizedTensor tensor = random_tensor(*scheme.weights, 4, 8, 1);
  const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), scheme, {"m", 4, 8, DType::F32}, tensor);
  const auto linear = layout().find_linears(checkpoint).at(0);
  CHECK(element_dtype(linear.args) == DType::F8_E5M2);
  CHECK(same_values(read_all(checkpoint, linear), tensor));
}

TEST_CASE("a group index is read, and -1 means that it is not used") {
  Scheme scheme = *preset_scheme("W4A16");
  scheme.targets = {"Linear"};
  scheme.weights->group_size = 8;
  scheme.weights->actorder = ActOrder::group;
  QuantizedTensor tensor = random_tensor(*scheme.weights, 5, 32, 5);
  for (int c = 0; c < 32; ++c) tensor.group_index.push_back(c % 4);
  MemoryCheckpoint checkpoint = stored_checkpoint(layout(), scheme, {"m", 5, 32, DType::F16}, tensor);
  const auto linear = layout().find_linears(checkpoint).at(0);
  CHECK(same_values(read_all(checkpoint, linear), tensor));
  checkpoint.set_values("m.weight_g_idx", DType::I32, {32}, std::vector<std::int32_t>(32, -1));
  CHECK(read_all(checkpoint, linear).group_index.empty());
  checkpoint.set_values("m.weight_g_idx", DType::I32, {32}, std::vector<std::int32_t>(32, 4));
  CHECK_THROWS_AS(read_all(checkpoint, linear), Error);
  checkpoint.set_values("m.weight_g_idx", DType::I32, {32}, std::vector<std::int32_t>(32, -2));
  CHECK_THROWS_AS(read_all(checkpoint, linear), Error);
}

TEST_CASE("configs of other versions and hands are understood") {
  const GoldenFile& golden = compressed_tensors_golden();
  const auto reads = [&](const std::string& name, const std::function<void(nlohmann::json&)>& change) {
    MemoryCheckpoint checkpoint = golden_checkpoint(golden, golden.find_case(name));
    change_config(checkpoint, change);
    const auto linear = layout().find_linears(checkpoint).at(0);
    return same_values(read_all(checkpoint, linear), golden_tensor(golden, golden.find_case(name), layout()));
  };
  const std::string group4 = "int4_sym_group128_w6x256";
  CHECK(reads(group4, [](auto& c) { c["config_groups"] = {{"W4A16", {"Linear"}}}; }));
  CHECK(reads(group4, [](auto& c) {  // only what differs from the defaults
    c = {{"quant_method", "compressed-tensors"},
         {"config_groups",
          {{"group_0", {{"targets", {"Linear"}}, {"weights", {{"num_bits", 4}, {"group_size", 128}}}}}}}};
  }));
  CHECK(reads("int8_sym_channel_w33x48", [](auto& c) {
    auto& weights = c["config_groups"]["group_0"]["weights"];
    weights.erase("strategy");
    weights["group_size"] = -1;
    weights["type"] = "INT";
    weights["actorder"] = false;
  }));
  CHECK(reads("fp8_block_w33x48",
              [](auto& c) { c["config_groups"]["group_0"]["weights"]["block_structure"] = "16x20"; }));
  CHECK(reads("mxfp4_w40x64", [](auto& c) { c["config_groups"]["group_0"]["weights"].erase("scale_dtype"); }));
  CHECK(reads("nvfp4_w40x64", [](auto& c) {
    c["config_groups"]["group_0"]["weights"].erase("scale_dtype");
    c["config_groups"]["group_0"]["weights"]["strategy"] = "group";
    c["config_groups"]["group_0"].erase("format");
  }));
  CHECK(reads(group4, [](auto& c) { c["config_groups"]["group_0"]["targets"] = {"re:nothing"}; }));  // the only group
}

TEST_CASE("the scheme of a module is that of its most specific target") {
  Scheme eight = *preset_scheme("W8A16");
  Scheme four = *preset_scheme("W4A16");
  eight.targets = {"Linear", "re:.*down"};
  four.targets = {"model.down_proj", "re:.*gate"};
  const QuantizedTensor bytes = random_tensor(*eight.weights, 2, 128, 1);
  const QuantizedTensor nibbles = random_tensor(*four.weights, 2, 128, 1);
  MemoryCheckpoint checkpoint;
  const auto add = [&](const Scheme& scheme, const std::string& module, const QuantizedTensor& tensor) {
    const MemoryCheckpoint one = stored_checkpoint(layout(), scheme, {module, 2, 128, DType::F32}, tensor);
    for (const auto& info : one.tensors()) checkpoint.set(info.name, one.view(info));
  };
  add(four, "model.down_proj", nibbles);  // exact before pattern
  add(eight, "model.down_other", bytes);  // pattern
  add(four, "model.gate_proj", nibbles);  // pattern before class
  add(eight, "model.q_proj", bytes);      // class
  const std::string text = layout().config_json({}, {{"group_0", eight}, {"group_1", four}}, {});
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  const auto linears = layout().find_linears(checkpoint);
  REQUIRE(linears.size() == 4);
  CHECK(linears[0].args.num_bits == 4);
  CHECK(linears[1].args.num_bits == 8);
  CHECK(linears[2].args.num_bits == 4);
  CHECK(linears[3].args.num_bits == 8);
}

TEST_CASE("tensors that are not quantized are left alone") {
  const GoldenFile& golden = compressed_tensors_golden();
  MemoryCheckpoint checkpoint = golden_checkpoint(golden, golden.find_case("w8a8_channel"));
  checkpoint.set_values("norm.weight", DType::F32, {4}, std::vector<float>(4));
  checkpoint.set_values("m.bias", DType::F32, {33}, std::vector<float>(33));
  // "dense": parameters of quantization beside a weight that was never compressed.
  checkpoint.set_values("dense.weight", DType::F32, {2, 2}, std::vector<float>(4));
  checkpoint.set_values("dense.weight_scale", DType::F32, {1}, std::vector<float>(1));
  const auto linears = layout().find_linears(checkpoint);
  REQUIRE(linears.size() == 1);
  CHECK(linears[0].tensors == std::vector<std::string>{"m.weight", "m.weight_scale"});
}
