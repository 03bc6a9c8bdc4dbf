#include <map>
#include <set>

#include "layout_helpers.h"
#include "quant/error.h"
#include "quant/observers.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() {
  static const auto instance = make_compressed_tensors();
  return *instance;
}

LinearShape golden_linear(const GoldenFile& golden, const GoldenCase& item) {
  const Shape& shape = golden.tensor(item.name + "/codes").shape;
  return {"m", shape[0], shape[1], item.weight_dtype};
}

struct Preset {
  std::string name;
  std::uint64_t rows;
  std::uint64_t cols;
};

}  // namespace

TEST_CASE("stored tensors equal those of the Python package, byte for byte") {
  const GoldenFile& golden = compressed_tensors_golden();
  for (const auto& item : golden.cases()) {
    CAPTURE(item.name);
    const LinearShape linear = golden_linear(golden, item);
    REQUIRE_FALSE(layout().unsupported(item.scheme, linear));
    CHECK(layout().format_of(item.scheme) == item.format);
    const auto list = layout().stored(item.scheme, linear);
    const CountingSink sink = store(layout(), item.scheme, linear, golden_tensor(golden, item, layout()));
    CHECK(sink.complete());
    std::set<std::string> names;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string suffix = list[i].name.substr(2);
      CAPTURE(suffix);
      names.insert(suffix);
      const TensorView& expected = golden.tensor(item.name + "/" + suffix);
      CHECK(list[i].dtype == expected.dtype);
      CHECK(list[i].shape == expected.shape);
      CHECK(std::equal(expected.bytes.begin(), expected.bytes.end(), sink.bytes[i].begin(), sink.bytes[i].end()));
    }
    CHECK(names == std::set<std::string>(item.stored.begin(), item.stored.end()));
  }
}

TEST_CASE("slices store the same bytes as the whole") {
  const GoldenFile& golden = compressed_tensors_golden();
  for (const auto& item : golden.cases()) {
    CAPTURE(item.name);
    const LinearShape linear = golden_linear(golden, item);
    const QuantizedTensor tensor = golden_tensor(golden, item, layout());
    const CountingSink whole = store(layout(), item.scheme, linear, tensor);
    const std::uint64_t alignment = layout().row_alignment(item.scheme);
    for (const std::uint64_t step : {alignment, 2 * alignment}) {
      const CountingSink sliced = store(layout(), item.scheme, linear, tensor, step);
      CHECK(sliced.bytes == whole.bytes);
      CHECK(sliced.complete());
    }
  }
}

TEST_CASE("rows larger than the working memory are packed in parts") {
  Scheme scheme;
  scheme.weights = QuantArgs{};
  scheme.weights->num_bits = 4;
  scheme.weights->strategy = Strategy::channel;
  const LinearShape linear{"m", 600, 2048, DType::BF16};
  const QuantizedTensor tensor = random_tensor(*scheme.weights, linear.rows, linear.cols, 1);
  const CountingSink whole = store(layout(), scheme, linear, tensor);
  CHECK(whole.complete());
  CHECK(store(layout(), scheme, linear, tensor, 7).bytes == whole.bytes);
}

TEST_CASE("row alignment follows from what is packed along rows") {
  Scheme scheme;
  scheme.weights = QuantArgs{};
  scheme.weights->num_bits = 4;
  scheme.weights->strategy = Strategy::channel;
  CHECK(layout().row_alignment(scheme) == 1);
  scheme.weights->symmetric = false;
  CHECK(layout().row_alignment(scheme) == 32);
  scheme.weights->strategy = Strategy::tensor;
  CHECK(layout().row_alignment(scheme) == 1);
  scheme.weights->strategy = Strategy::block;
  scheme.weights->block_structure = {128, 64};
  CHECK(layout().row_alignment(scheme) == 128);
}

TEST_CASE("static activations of a constant range are stored as scales") {
  const LinearShape linear{"m", 4, 32, DType::BF16};
  const auto value_of = [&](const Scheme& scheme, const std::string& name) {
    const auto list = layout().stored(scheme, linear);
    const CountingSink sink = store(layout(), scheme, linear, random_tensor(*scheme.weights, 4, 32, 3));
    CHECK(sink.complete());
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].name != name) continue;
      CHECK(list[i].shape == Shape{1});
      std::vector<float> value(1);
      if (list[i].dtype == DType::I8) return static_cast<float>(std::to_integer<int>(sink.bytes[i][0]));
      read_f32({list[i].dtype, list[i].shape, sink.bytes[i]}, 0, value);
      return value[0];
    }
    FAIL("no tensor " << name);
    return 0.0F;
  };
  Scheme fp8 = *preset_scheme("FP8");
  REQUIRE(layout().unsupported(fp8, linear));
  CHECK(layout().unsupported(fp8, linear)->find("calibration") != std::string::npos);
  CHECK(layout().unsupported(fp8, linear)->find("absmax") != std::string::npos);
  fp8.input_activations->observer_kwargs["absmax"] = 22.4;
  CHECK_FALSE(layout().unsupported(fp8, linear));
  CHECK(value_of(fp8, "m.input_scale") == round_to_dtype(DType::BF16, 0.05F));

  Scheme int8 = *preset_scheme("W8A8");
  int8.input_activations = QuantArgs{};
  int8.input_activations->symmetric = false;
  int8.input_activations->observer_kwargs["absmax"] = std::int64_t{51};
  CHECK_FALSE(layout().unsupported(int8, linear));
  CHECK(value_of(int8, "m.input_scale") == round_to_dtype(DType::BF16, 0.4F));
  CHECK(value_of(int8, "m.input_zero_point") == 0.0F);

  Scheme nvfp4 = *preset_scheme("NVFP4");
  REQUIRE(layout().unsupported(nvfp4, linear));
  nvfp4.input_activations->observer_kwargs["absmax"] = 16.0;
  CHECK_FALSE(layout().unsupported(nvfp4, linear));
  CHECK(value_of(nvfp4, "m.input_global_scale") == 168.0F);
}

TEST_CASE("calibrated scales of inputs are stored, and a constant of the recipe wins") {
  const LinearShape linear{"m", 4, 32, DType::BF16};
  const auto stored = [&](const Scheme& scheme, const QuantizedTensor& tensor) {
    std::map<std::string, float> values;
    const auto list = layout().stored(scheme, linear);
    const CountingSink sink = store(layout(), scheme, linear, tensor);
    CHECK(sink.complete());
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].name.find("input") == std::string::npos) continue;
      std::vector<float> value(1);
      read_f32({list[i].dtype, list[i].shape, sink.bytes[i]}, 0, value);
      values[list[i].name] = value[0];
    }
    return values;
  };
  using Values = std::map<std::string, float>;
  Scheme int8 = *preset_scheme("W8A8");
  int8.input_activations = QuantArgs{};
  int8.input_activations->symmetric = false;
  QuantizedTensor tensor = random_tensor(*int8.weights, 4, 32, 3);
  CHECK_THROWS_WITH(stored(int8, tensor), Catch::Contains("m.input_scale") && Catch::Contains("does not fit"));
  const StaticScale found = static_activation_scale(*int8.input_activations, -2.0F, 5.0F, DType::BF16);
  tensor.input_scale = found.scale;
  tensor.input_zero_point = found.zero_point;
  CHECK(stored(int8, tensor) == Values{{"m.input_scale", found.scale}, {"m.input_zero_point", -55.0F}});
  int8.input_activations->observer_kwargs["absmax"] = 51.0;
  CHECK(stored(int8, tensor) ==
        Values{{"m.input_scale", round_to_dtype(DType::BF16, 0.4F)}, {"m.input_zero_point", 0.0F}});

  Scheme nvfp4 = *preset_scheme("NVFP4");
  tensor = random_tensor(*nvfp4.weights, 4, 32, 3);
  CHECK_THROWS_WITH(stored(nvfp4, tensor), Catch::Contains("the global scale of its inputs is 0"));
  tensor.input_global_scale = static_activation_global_scale(-16.0F, 3.0F);
  CHECK(stored(nvfp4, tensor) == Values{{"m.input_global_scale", 168.0F}});
  nvfp4.input_activations->observer_kwargs["absmax"] = 8.0;
  CHECK(stored(nvfp4, tensor) == Values{{"m.input_global_scale", 336.0F}});
}

TEST_CASE("columns in another order are stored with their index") {
  Scheme scheme = *preset_scheme("W4A16");
  scheme.weights->group_size = 8;
  scheme.weights->actorder = ActOrder::group;
  const LinearShape linear{"m", 5, 32, DType::F16};
  QuantizedTensor tensor = random_tensor(*scheme.weights, 5, 32, 5);
  const auto list = layout().stored(scheme, linear);
  REQUIRE(list[2] == StoredTensor{"m.weight_g_idx", DType::I32, {32}});
  const auto index_of = [&](const QuantizedTensor& t) {
    std::vector<std::int32_t> index(32);
    const CountingSink sink = store(layout(), scheme, linear, t);
    CHECK(sink.complete());
    std::memcpy(index.data(), sink.bytes[2].data(), 128);
    return index;
  };
  CHECK(index_of(tensor)[31] == 3);  // columns in order
  for (int c = 0; c < 32; ++c) tensor.group_index.push_back(c % 4);
  CHECK(index_of(tensor) == tensor.group_index);
  scheme.weights->actorder = ActOrder::weight;
  CHECK_THROWS_AS(store(layout(), scheme, linear, tensor), Error);
}

TEST_CASE("8-bit floats with five exponent bits keep their type") {
  Scheme scheme = *preset_scheme("FP8_DYNAMIC");
  scheme.weights->observer_kwargs["float8_format"] = std::string("e5m2");
  const LinearShape linear{"m", 4, 8, DType::BF16};
  CHECK_FALSE(layout().unsupported(scheme, linear));
  CHECK(layout().stored(scheme, linear)[0] == StoredTensor{"m.weight", DType::F8_E5M2, {4, 8}});
}

TEST_CASE("every preset that needs no calibration can be stored") {
  const LinearShape linear{"m", 128, 256, DType::BF16};
  for (const auto name : preset_names()) {
    const Scheme scheme = *preset_scheme(name);
    CAPTURE(std::string(name));
    const bool expected = name != "UNQUANTIZED" && name != "FP8" && name != "NVFP4";
    CHECK(layout().unsupported(scheme, linear).has_value() == !expected);
    if (!expected) continue;
    const QuantizedTensor tensor = random_tensor(*scheme.weights, linear.rows, linear.cols, 2);
    CHECK(store(layout(), scheme, linear, tensor).complete());
  }
}

TEST_CASE("slices that do not fit are refused") {
  Scheme scheme = *preset_scheme("W4A16_ASYM");
  scheme.weights->group_size = 8;
  const LinearShape linear{"m", 64, 16, DType::F32};
  const QuantizedTensor tensor = random_tensor(*scheme.weights, 64, 16, 9);
  CountingSink sink(layout().stored(scheme, linear));
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 16, slice_of(tensor, 16, 32), sink), Error);
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 0, slice_of(tensor, 0, 16), sink), Error);
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 64, slice_of(tensor, 32, 32), sink), Error);
  QuantizedTensor wrong = tensor;
  wrong.scales.pop_back();
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 0, wrong, sink), Error);
  wrong = tensor;
  wrong.zero_points.clear();
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 0, wrong, sink), Error);
  wrong = tensor;
  wrong.args.num_bits = 8;
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 0, wrong, sink), Error);
  Scheme mx = *preset_scheme("MXFP4A16");
  QuantizedTensor odd = random_tensor(*mx.weights, 2, 32, 1);
  odd.scales[0] = 3.0F;
  CountingSink mx_sink(layout().stored(mx, {"m", 2, 32, DType::F32}));
  CHECK_THROWS_AS(layout().write_rows(mx, {"m", 2, 32, DType::F32}, 0, odd, mx_sink), Error);
}
