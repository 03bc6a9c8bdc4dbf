#include "layout_helpers.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() {
  static const auto instance = make_compressed_tensors();
  return *instance;
}

Scheme weights(QuantArgs args) {
  Scheme scheme;
  scheme.weights = std::move(args);
  return scheme;
}

QuantArgs int_args(int bits, Strategy strategy) {
  QuantArgs args;
  args.num_bits = bits;
  args.strategy = strategy;
  if (strategy == Strategy::group) args.group_size = 32;
  return args;
}

QuantArgs float_args(int bits, Strategy strategy) {
  QuantArgs args = int_args(bits, strategy);
  args.type = NumberType::floating;
  return args;
}

std::string reason(const Scheme& scheme, LinearShape linear = {"m", 64, 128, DType::BF16}) {
  return layout().unsupported(scheme, linear).value_or("");
}

bool refuses(const Scheme& scheme, const std::string& word, LinearShape linear = {"m", 64, 128, DType::BF16}) {
  const std::string text = reason(scheme, std::move(linear));
  INFO(text);
  CHECK(text.find(word) != std::string::npos);
  return text.find(word) != std::string::npos;
}

}  // namespace

TEST_CASE("formats follow from the scheme") {
  Scheme scheme = weights(int_args(3, Strategy::group));
  CHECK(layout().format_of(scheme) == "pack-quantized");
  scheme.input_activations = int_args(8, Strategy::token);
  scheme.input_activations->dynamic = Dynamic::yes;
  CHECK(layout().format_of(scheme) == "int-quantized");
  scheme.format = "pack-quantized";
  CHECK(layout().format_of(scheme) == "pack-quantized");
  CHECK(reason(scheme).empty());
  CHECK(layout().stored(scheme, {"m", 64, 128, DType::BF16})[0].dtype == DType::I32);
  scheme.format = "naive-quantized";
  CHECK(reason(scheme).empty());
  CHECK(layout().stored(scheme, {"m", 64, 128, DType::BF16})[0].dtype == DType::I8);
  scheme.weights = float_args(8, Strategy::channel);
  scheme.format.reset();
  CHECK(layout().format_of(scheme) == "float-quantized");
  scheme.input_activations.reset();
  CHECK(layout().format_of(scheme) == "naive-quantized");
}

TEST_CASE("types of scales") {
  const QuantArgs plain = int_args(4, Strategy::group);
  CHECK(layout().scale_dtype(plain, DType::BF16) == DType::BF16);
  CHECK(layout().scale_dtype(plain, DType::F16) == DType::F16);
  CHECK(layout().scale_dtype(plain, DType::F32) == DType::F32);
  CHECK(layout().scale_dtype(plain, DType::F64) == DType::F32);
  CHECK(layout().scale_dtype(plain, DType::F8_E4M3) == DType::F16);
  QuantArgs wide = plain;
  wide.scale_dtype = DType::F32;
  CHECK(layout().scale_dtype(wide, DType::BF16) == DType::F32);
  CHECK(layout().scale_dtype(*preset_scheme("NVFP4A16")->weights, DType::BF16) == DType::F8_E4M3);
  CHECK(layout().scale_dtype(*preset_scheme("MXFP8")->weights, DType::BF16) == DType::U8);
}

TEST_CASE("what cannot be stored is refused with the way out") {
  CHECK(refuses(Scheme{}, "no weights"));
  CHECK(refuses(weights(int_args(8, Strategy::token)), "token"));
  CHECK(refuses(weights(int_args(8, Strategy::attn_head)), "attn_head"));
  CHECK(refuses(weights(int_args(9, Strategy::channel)), "int9"));
  CHECK(refuses(weights(float_args(6, Strategy::channel)), "6-bit"));
  CHECK(refuses(weights(float_args(4, Strategy::group)), "MXFP4"));
  CHECK(refuses(weights(float_args(4, Strategy::channel)), "NVFP4"));
  Scheme scheme = weights(float_args(8, Strategy::channel));
  scheme.weights->symmetric = false;
  CHECK(refuses(scheme, "symmetric"));
  scheme = weights(int_args(8, Strategy::channel));
  scheme.weights->dynamic = Dynamic::yes;
  CHECK(refuses(scheme, "dynamic"));
  scheme = weights(int_args(4, Strategy::group));
  scheme.weights->scale_dtype = DType::F8_E4M3;
  CHECK(refuses(scheme, "scale_dtype"));
  scheme = weights(int_args(4, Strategy::group));
  scheme.weights->zp_dtype = DType::I32;
  CHECK(refuses(scheme, "zp_dtype"));
  scheme = weights(int_args(4, Strategy::tensor_group));
  CHECK(refuses(scheme, "tensor_group"));
  scheme = *preset_scheme("NVFP4A16");
  scheme.weights->group_size = 32;
  CHECK(refuses(scheme, "group_size 16"));
  scheme = *preset_scheme("MXFP8");
  scheme.weights->observer_kwargs["float8_format"] = std::string("e5m2");
  CHECK(refuses(scheme, "mxfp8"));
}

TEST_CASE("shapes that a format cannot hold are refused") {
  CHECK(refuses(*preset_scheme("NVFP4A16"), "m has 100 columns", {"m", 64, 100, DType::BF16}));
  CHECK(refuses(*preset_scheme("NVFP4A16"), "multiple of group_size 16", {"m", 64, 24, DType::BF16}));
  CHECK(refuses(*preset_scheme("MXFP4"), "multiple of group_size 32", {"m", 64, 48, DType::BF16}));
  CHECK(refuses(*preset_scheme("MXFP8"), "multiple of group_size 32", {"m", 64, 100, DType::BF16}));
  CHECK(refuses(*preset_scheme("MXFP8"), "whole groups only", {"m", 64, 16, DType::BF16}));
  CHECK(refuses(*preset_scheme("W8A8"), "empty", {"m", 0, 48, DType::BF16}));
  CHECK(refuses(*preset_scheme("W8A8"), "I8", {"m", 4, 48, DType::I8}));
  CHECK(reason(*preset_scheme("FP8_BLOCK"), {"m", 130, 100, DType::BF16}).empty());  // ragged blocks
}

TEST_CASE("a short last group can be stored, and has a scale of its own") {
  const auto scale_of = [](const Scheme& scheme, std::uint64_t cols) {
    const LinearShape linear{"m", 64, cols, DType::BF16};
    CHECK(reason(scheme, linear).empty());
    return layout().stored(scheme, linear).at(1);
  };
  CHECK(scale_of(*preset_scheme("W4A16"), 100) == StoredTensor{"m.weight_scale", DType::BF16, {64, 1}});
  CHECK(scale_of(*preset_scheme("W4A16"), 129) == StoredTensor{"m.weight_scale", DType::BF16, {64, 2}});
  CHECK(scale_of(*preset_scheme("W4A8"), 300) == StoredTensor{"m.weight_scale", DType::BF16, {64, 3}});
  CHECK(scale_of(weights(float_args(8, Strategy::group)), 33) == StoredTensor{"m.weight_scale", DType::BF16, {64, 2}});
}

TEST_CASE("formats that do not go with the numbers are refused") {
  Scheme scheme = *preset_scheme("W4A16");
  for (const char* name : {"float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"}) {
    scheme.format = name;
    CHECK(refuses(scheme, "cannot hold"));
  }
  for (const char* name : {"mixed-precision", "dense", "marlin-24", "sparse-bitmask"}) {
    scheme.format = name;
    CHECK(refuses(scheme, "no format that can be written"));
  }
  scheme.format = "pack-quantized-0.17";
  CHECK(refuses(scheme, "cannot hold"));
  scheme = *preset_scheme("MXFP4");
  scheme.format = "pack-quantized";
  CHECK(refuses(scheme, "cannot hold"));
  scheme = *preset_scheme("W4A8");
  scheme.weights->actorder = ActOrder::group;
  CHECK(refuses(scheme, "actorder"));
  scheme = weights(int_args(4, Strategy::channel));
  scheme.weights->actorder = ActOrder::group;
  CHECK(refuses(scheme, "actorder"));
}

TEST_CASE("static activations without a constant range are refused") {
  CHECK(refuses(*preset_scheme("FP8"), "FP8_DYNAMIC"));
  CHECK(refuses(*preset_scheme("NVFP4"), "NVFP4A16"));
  Scheme scheme = *preset_scheme("W8A8");
  scheme.input_activations = int_args(8, Strategy::tensor);
  CHECK(refuses(scheme, "observer_kwargs: {absmax: <number>}"));
  for (const KwValue& bad :
       {KwValue(-1.0), KwValue(0.0), KwValue(std::string("3")), KwValue(true), KwValue(1.0 / 0.0)}) {
    scheme.input_activations->observer_kwargs["absmax"] = bad;
    CHECK(refuses(scheme, "absmax"));
  }
  scheme.input_activations->observer_kwargs["absmax"] = 3.5;
  CHECK(reason(scheme).empty());
  scheme.input_activations->strategy = Strategy::channel;
  CHECK(refuses(scheme, "strategy tensor only"));
  scheme = *preset_scheme("W8A8");
  scheme.output_activations = int_args(8, Strategy::tensor);
  CHECK(refuses(scheme, "output_activations"));
  scheme.output_activations->observer_kwargs["absmax"] = 2.0;
  CHECK(reason(scheme).empty());
  CHECK(layout().stored(scheme, {"m", 4, 8, DType::BF16}).back() == StoredTensor{"m.output_scale", DType::BF16, {1}});
}
