// Quantization arguments: completion, rules, grids, names; observers and their arguments.
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/observers.h"
#include "quant/scheme.h"
#include "support/catch.h"

using namespace quant;

namespace {

using Problems = std::vector<std::string>;

QuantArgs integer(int bits, bool symmetric = true) {
  QuantArgs args;
  args.num_bits = bits;
  args.symmetric = symmetric;
  return args;
}

QuantArgs floating(int bits) {
  QuantArgs args;
  args.num_bits = bits;
  args.type = NumberType::floating;
  return args;
}

QuantArgs with_strategy(QuantArgs args, Strategy strategy, std::optional<std::int64_t> size = {}) {
  args.strategy = strategy;
  args.group_size = size;
  return args;
}

Problems check(QuantArgs args) { return complete_and_check(args, true); }

}  // namespace

TEST_CASE("the strategy follows from the sizes where it is not given") {
  QuantArgs args = integer(4);
  REQUIRE(complete_and_check(args, false).empty());
  CHECK(args.strategy == Strategy::tensor);

  args.group_size = 128;
  REQUIRE(complete_and_check(args, false).empty());
  CHECK(args.strategy == Strategy::group);

  args.group_size = -1;
  REQUIRE(complete_and_check(args, false).empty());
  CHECK(args.strategy == Strategy::channel);
  CHECK_FALSE(args.group_size.has_value());

  args = floating(8);
  args.block_structure = {128, 64};
  REQUIRE(complete_and_check(args, false).empty());
  CHECK(args.strategy == Strategy::block);

  args.group_size = 32;
  CHECK(complete_and_check(args, false) == Problems{"group_size: strategy block has none"});
}

TEST_CASE("a given strategy is kept and -1 stands for no group") {
  QuantArgs args = with_strategy(integer(8), Strategy::tensor, -1);
  REQUIRE(complete_and_check(args, true).empty());
  CHECK(args.strategy == Strategy::tensor);
  CHECK_FALSE(args.group_size.has_value());
  CHECK(check(with_strategy(integer(8), Strategy::group, -1)) == Problems{"group_size: strategy group needs one"});
}

TEST_CASE("bits: 1 to 8 for integers, 4 and 8 for floats") {
  for (int bits = -1; bits <= 17; ++bits) {
    INFO(bits);
    CHECK(check(integer(bits)).empty() == (bits >= 1 && bits <= 8));
    CHECK(check(floating(bits)).empty() == (bits == 4 || bits == 8));
  }
  CHECK(check(integer(9)) == Problems{"num_bits: 9 is not in 1..8 for type int"});
  CHECK(check(floating(6)) == Problems{"num_bits: 6 is not 4 or 8 for type float"});
}

TEST_CASE("floats are symmetric") {
  QuantArgs args = floating(8);
  args.symmetric = false;
  CHECK(check(args) == Problems{"symmetric: type float must be symmetric"});
}

TEST_CASE("group sizes and blocks belong to their strategies") {
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel}) {
    CHECK(check(with_strategy(integer(4), strategy)).empty());
    CHECK(check(with_strategy(integer(4), strategy, 128)).size() == 1);
  }
  CHECK(check(with_strategy(integer(4), Strategy::group)).size() == 1);
  CHECK(check(with_strategy(integer(4), Strategy::group, 1)).empty());
  CHECK(check(with_strategy(integer(4), Strategy::group, 0)) == Problems{"group_size: 0 is neither -1 nor positive"});
  CHECK(check(with_strategy(integer(4), Strategy::channel, -2)) ==
        Problems{"group_size: -2 is neither -1 nor positive"});
  CHECK(check(with_strategy(floating(8), Strategy::block)) ==
        Problems{"block_structure: strategy block needs [rows, columns]"});

  QuantArgs args = with_strategy(floating(8), Strategy::block);
  args.block_structure = {0, 128};
  CHECK(check(args) == Problems{"block_structure: both numbers must be positive"});
  args.block_structure = {128, 128};
  CHECK(check(args).empty());
  args.strategy = Strategy::tensor;
  CHECK(check(args) == Problems{"block_structure: only strategy block has one"});
}

TEST_CASE("group sizes and blocks end at 2^31 - 1") {
  constexpr std::int64_t kLargest = 2147483647;
  CHECK(check(with_strategy(integer(4), Strategy::group, kLargest)).empty());
  CHECK(check(with_strategy(integer(4), Strategy::group, kLargest + 1)) ==
        Problems{"group_size: 2147483648 is larger than 2147483647"});
  CHECK(check(with_strategy(integer(4), Strategy::group, std::numeric_limits<std::int64_t>::max())).size() == 1);

  QuantArgs args = with_strategy(floating(8), Strategy::block);
  args.block_structure = {kLargest, kLargest};
  CHECK(check(args).empty());
  args.block_structure = {128, 2147483648U};
  CHECK(check(args) == Problems{"block_structure: 2147483648 is larger than 2147483647"});
  args.block_structure = {std::numeric_limits<std::uint64_t>::max(), 128};
  CHECK(check(args) == Problems{"block_structure: 18446744073709551615 is larger than 2147483647"});
}

TEST_CASE("which strategies may be dynamic") {
  const auto problems = [](Strategy strategy, Dynamic dynamic) {
    QuantArgs args = with_strategy(floating(8), strategy);
    if (strategy == Strategy::group) args.group_size = 32;
    if (strategy == Strategy::tensor_group) args = with_strategy(floating(4), strategy, 16);
    if (strategy == Strategy::block) args.block_structure = {16, 16};
    args.dynamic = dynamic;
    return check(args).size();
  };
  CHECK(problems(Strategy::token, Dynamic::no) == 1);
  CHECK(problems(Strategy::token, Dynamic::yes) == 0);
  for (const Strategy strategy : {Strategy::tensor, Strategy::group, Strategy::tensor_group}) {
    CHECK(problems(strategy, Dynamic::no) == 0);
    CHECK(problems(strategy, Dynamic::yes) == 0);
    CHECK(problems(strategy, Dynamic::local) == (strategy == Strategy::tensor_group ? 0U : 1U));
  }
  for (const Strategy strategy : {Strategy::channel, Strategy::block, Strategy::attn_head}) {
    CHECK(problems(strategy, Dynamic::no) == 0);
    CHECK(problems(strategy, Dynamic::yes) == 1);
    CHECK(problems(strategy, Dynamic::local) == 1);
  }
}

TEST_CASE("actorder group needs groups") {
  QuantArgs args = with_strategy(integer(4), Strategy::channel);
  args.actorder = ActOrder::group;
  CHECK(check(args) == Problems{"actorder: group needs strategy group or tensor_group"});
  args.actorder = ActOrder::weight;
  CHECK(check(args).empty());
  args = with_strategy(args, Strategy::group, 128);
  args.actorder = ActOrder::group;
  CHECK(check(args).empty());
}

TEST_CASE("scale types: MX and NVFP4 have theirs, and 4-bit floats get them") {
  QuantArgs nvfp4 = with_strategy(floating(4), Strategy::tensor_group, 16);
  REQUIRE(complete_and_check(nvfp4, true).empty());
  CHECK(nvfp4.scale_dtype == DType::F8_E4M3);
  CHECK(is_nvfp4(nvfp4));
  CHECK_FALSE(is_mx(nvfp4));
  nvfp4.scale_dtype = DType::BF16;
  CHECK(check(nvfp4) == Problems{"scale_dtype: NVFP4 scales are float8_e4m3fn"});
  nvfp4 = with_strategy(floating(4), Strategy::tensor_group, 32);
  CHECK(check(nvfp4) == Problems{"group_size: NVFP4 has groups of 16, not 32"});
  CHECK(check(with_strategy(integer(4), Strategy::tensor_group, 16)).size() == 1);

  QuantArgs mxfp4 = with_strategy(floating(4), Strategy::group, 32);
  REQUIRE(complete_and_check(mxfp4, true).empty());
  CHECK(mxfp4.scale_dtype == DType::U8);
  CHECK(is_mx(mxfp4));

  QuantArgs fp8 = with_strategy(floating(8), Strategy::group, 32);
  REQUIRE(complete_and_check(fp8, true).empty());
  CHECK_FALSE(fp8.scale_dtype.has_value());
  CHECK_FALSE(is_mx(fp8));
  fp8.scale_dtype = DType::U8;
  CHECK(check(fp8).empty());
  CHECK(is_mx(fp8));
  fp8.group_size = 64;
  CHECK(check(fp8) == Problems{"scale_dtype: uint8 scales need type float and strategy group of 32"});

  for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
    QuantArgs args = with_strategy(integer(4), Strategy::group, 128);
    args.scale_dtype = type;
    CHECK(check(args).empty());
    args.scale_dtype = DType::F8_E4M3;
    CHECK(check(args).size() == 1);
    args.scale_dtype = DType::I64;
    CHECK(check(args).size() == 1);
  }
}

TEST_CASE("zero points are int8 where there are any") {
  QuantArgs args = integer(4, false);
  args.zp_dtype = DType::I8;
  CHECK(check(args).empty());
  args.zp_dtype = DType::I32;
  CHECK(check(args) == Problems{"zp_dtype: zero points of 1 to 8 bits are int8, or real numbers as float32, "
                                "float16 or bfloat16"});
  args.zp_dtype = DType::F16;
  CHECK(check(args).empty());
  CHECK(has_real_zero_points(args));
  args.symmetric = true;
  CHECK(check(args).empty());
}

TEST_CASE("symmetric ranges and their codes") {
  QuantArgs args = integer(4);
  CHECK(code_min(args) == -8);
  CHECK(code_max(args) == 7);
  CHECK(symmetric_range(args) == SymmetricRange::standard);
  args.observer_kwargs["symmetric_range"] = std::string("restricted");
  CHECK(check(args).empty());
  CHECK(code_min(args) == -7);
  args.num_bits = 1;
  CHECK(check(args) == Problems{"observer_kwargs.symmetric_range: restricted needs at least 2 bits"});
  args.num_bits = 8;
  args.observer_kwargs["symmetric_range"] = std::string("full");
  CHECK(check(args).empty());
  CHECK(symmetric_range(args) == SymmetricRange::full);
  CHECK(code_min(args) == -128);
  args.symmetric = false;
  CHECK(check(args) == Problems{"observer_kwargs.symmetric_range: applies to symmetric integers only"});
  args = integer(4);
  args.observer_kwargs["symmetric_range"] = std::string("wide");
  CHECK(check(args) == Problems{"observer_kwargs.symmetric_range: must be one of standard, restricted, full"});
  for (int bits = 1; bits <= 8; ++bits) {
    CHECK(code_max(integer(bits)) - code_min(integer(bits)) + 1 == (1 << bits));
  }
}

TEST_CASE("8-bit floats have two forms") {
  QuantArgs args = floating(8);
  CHECK(element_dtype(args) == DType::F8_E4M3);
  CHECK(float_max(args) == 448.0F);
  args.observer_kwargs["float8_format"] = std::string("e5m2");
  CHECK(check(args).empty());
  CHECK(element_dtype(args) == DType::F8_E5M2);
  CHECK(float_max(args) == 57344.0F);
  CHECK(describe(args) == "fp8-e5m2 tensor");
  args.num_bits = 4;
  CHECK(check(args) == Problems{"observer_kwargs.float8_format: applies to 8-bit floats only"});
  CHECK(element_dtype(args) == DType::F4);
  CHECK(float_max(floating(4)) == 6.0F);
  CHECK(element_dtype(integer(3)) == DType::I8);
}

TEST_CASE("scale grids cover the matrix") {
  const auto grid = [](const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
    const ScaleGrid g = scale_grid(args, rows, cols);
    CHECK(g.rows * g.row_extent >= rows);
    CHECK(g.cols * g.col_extent >= cols);
    CHECK((g.rows - 1) * g.row_extent < rows);
    CHECK((g.cols - 1) * g.col_extent < cols);
    return std::array<std::uint64_t, 2>{g.rows, g.cols};
  };
  using Size = std::array<std::uint64_t, 2>;
  CHECK(grid(with_strategy(integer(4), Strategy::tensor), 5, 300) == Size{1, 1});
  CHECK(grid(with_strategy(integer(4), Strategy::channel), 5, 300) == Size{5, 1});
  CHECK(grid(with_strategy(integer(4), Strategy::group, 128), 5, 300) == Size{5, 3});
  CHECK(grid(with_strategy(integer(4), Strategy::group, 300), 5, 300) == Size{5, 1});
  CHECK(grid(with_strategy(integer(4), Strategy::group, 1), 5, 7) == Size{5, 7});
  QuantArgs block = with_strategy(floating(8), Strategy::block);
  block.block_structure = {2, 128};
  CHECK(grid(block, 5, 300) == Size{3, 3});
}

TEST_CASE("descriptions") {
  CHECK(describe(with_strategy(integer(4), Strategy::group, 128)) == "int4 sym group 128");
  CHECK(describe(with_strategy(integer(8, false), Strategy::channel)) == "int8 asym channel");
  CHECK(describe(with_strategy(floating(8), Strategy::channel)) == "fp8-e4m3 channel");
  CHECK(describe(*preset_scheme("nvfp4")->weights) == "nvfp4 group 16");
  CHECK(describe(*preset_scheme("MXFP8")->weights) == "mxfp8 group 32");
  CHECK(describe(*preset_scheme("FP8_BLOCK")->weights) == "fp8-e4m3 block 128x128");
}

TEST_CASE("every preset obeys the rules and is found in any case") {
  for (const auto name : preset_names()) {
    INFO(name);
    const auto scheme = preset_scheme(name);
    REQUIRE(scheme);
    std::string lower(name);
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    CHECK(preset_scheme(lower) == scheme);
    for (auto part : {scheme->weights, scheme->input_activations, scheme->output_activations}) {
      if (!part) continue;
      const QuantArgs before = *part;
      CHECK(complete_and_check(*part, true).empty());
      CHECK(*part == before);
    }
  }
  CHECK_FALSE(preset_scheme("W9A16"));
  CHECK_FALSE(preset_scheme(""));
}

TEST_CASE("observers: names, arguments, ranges") {
  QuantArgs args = integer(4);
  CHECK(observer_of(args).name == "memoryless_minmax");
  args.observer = "mse";
  CHECK(std::get<double>(observer_kwarg(args, "maxshrink")) == 0.20);
  CHECK(std::get<std::int64_t>(observer_kwarg(args, "grid")) == 100);
  CHECK(std::get<std::string>(observer_kwarg(args, "symmetric_range")) == "standard");
  CHECK_THROWS_AS(observer_kwarg(args, "percentile"), Error);

  args.observer_kwargs = {{"norm", std::int64_t{3}}, {"patience", std::int64_t{7}}};
  CHECK(check(args).empty());
  REQUIRE(complete_and_check(args, true).empty());
  CHECK(std::get<double>(args.observer_kwargs.at("norm")) == 3.0);  // an integer becomes a number
  CHECK(std::get<std::int64_t>(observer_kwarg(args, "patience")) == 7);

  args.observer_kwargs = {{"gird", std::int64_t{3}}};
  CHECK(check(args) == Problems{"observer_kwargs.gird: observer mse has no such argument, did you mean 'grid'?"});
  args.observer_kwargs = {{"grid", 2.5}};
  CHECK(check(args) == Problems{"observer_kwargs.grid: must be an integer"});
  args.observer_kwargs = {{"grid", std::int64_t{0}}};
  CHECK(check(args) == Problems{"observer_kwargs.grid: must be from 1 to 10000"});
  args.observer_kwargs = {{"maxshrink", 0.0}};
  CHECK(check(args) == Problems{"observer_kwargs.maxshrink: must be above 0 and at most 1"});
  args.observer_kwargs = {{"norm", std::nan("")}};
  CHECK(check(args).size() == 1);
  args.observer_kwargs = {};
  args.observer = "imatrix_mse";
  args.observer_kwargs = {{"strict", std::int64_t{1}}};
  CHECK(check(args) == Problems{"observer_kwargs.strict: must be true or false"});

  args = integer(4);
  args.observer = "persentile";
  CHECK(check(args) == Problems{"observer: unknown observer 'persentile', did you mean 'percentile'?"});
  CHECK_THROWS_AS(observer_of(args), Error);
}

TEST_CASE("every observer accepts its own defaults and nothing outside its ranges") {
  for (const auto& info : observers()) {
    CHECK(find_observer(info.name) == &info);
    auto kwargs = info.kwargs;
    for (const auto& kwarg : common_observer_kwargs()) kwargs.push_back(kwarg);
    for (const auto& kwarg : kwargs) {
      INFO(info.name << " " << kwarg.name);
      CHECK_FALSE(kwarg.help.empty());
      QuantArgs args = integer(4);
      args.observer = std::string(info.name);
      const bool given_by_default = kwarg.name != "absmax";  // 0 stands for "not given"
      args.observer_kwargs[std::string(kwarg.name)] = kwarg.default_value;
      CHECK(check_observer(args).empty() == given_by_default);
      if (kwarg.type == KwType::number && kwarg.highest < 1e300) {
        args.observer_kwargs[std::string(kwarg.name)] = kwarg.highest * 1.001;
        CHECK(check_observer(args).size() == 1);
        args.observer_kwargs[std::string(kwarg.name)] = kwarg.highest;
        CHECK(check_observer(args).empty());
      }
      args.observer_kwargs[std::string(kwarg.name)] = std::string("nonsense");
      CHECK(check_observer(args).size() == 1);
    }
  }
}

TEST_CASE("dynamic numbers need no observer") {
  QuantArgs args = with_strategy(integer(8), Strategy::token);
  args.dynamic = Dynamic::yes;
  args.observer = "minmax";
  args.observer_kwargs = {{"averaging_constant", 0.5}};
  REQUIRE(complete_and_check(args, true).empty());
  CHECK_FALSE(args.observer.has_value());
  CHECK(args.observer_kwargs.empty());
  args.observer = "mse";
  CHECK(check(args).size() == 1);
  args.observer.reset();
  args.observer_kwargs = {{"absmax", 3.0}};
  CHECK(check(args) == Problems{"observer_kwargs.absmax: dynamic numbers measure their range themselves"});
}

TEST_CASE("static activation scales follow from the largest magnitude") {
  const auto with_absmax = [](QuantArgs args, KwValue absmax) {
    args.observer_kwargs["absmax"] = std::move(absmax);
    return args;
  };
  // By hand: 448 and 57344 are the largest E4M3 and E5M2, 2^b - 1 the steps between the ends of b bits.
  CHECK(static_activation_scale(with_absmax(floating(8), 22.4)) == 0.05F);
  QuantArgs e5m2 = with_absmax(floating(8), std::int64_t{28672});
  e5m2.observer_kwargs["float8_format"] = std::string("e5m2");
  CHECK(static_activation_scale(e5m2) == 0.5F);
  CHECK(static_activation_scale(with_absmax(integer(8), std::int64_t{51})) == 0.4F);
  CHECK(static_activation_scale(with_absmax(integer(4, false), 15.0)) == 2.0F);
  CHECK(static_activation_scale(with_absmax(integer(1), 3.0)) == 6.0F);
  const QuantArgs nvfp4 = with_strategy(floating(4), Strategy::tensor_group, 16);
  CHECK(static_activation_global_scale(with_absmax(nvfp4, 16.0)) == 168.0F);
  CHECK(static_activation_global_scale(with_absmax(nvfp4, std::int64_t{2688})) == 1.0F);
}

TEST_CASE("without a usable largest magnitude there is no static scale") {
  const auto code_of = [](const QuantArgs& args, float (*scale)(const QuantArgs&)) {
    try {
      scale(args);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find("observer_kwargs.absmax") != std::string::npos);
      return error.code();
    }
    return ErrorCode::internal;
  };
  QuantArgs args = integer(8);
  CHECK_FALSE(constant_absmax(args));
  CHECK(code_of(args, static_activation_scale) == ErrorCode::recipe);
  CHECK(code_of(args, static_activation_global_scale) == ErrorCode::recipe);
  for (const KwValue& bad : {KwValue(-1.0), KwValue(0.0), KwValue(std::int64_t{0}), KwValue(std::nan("")),
                             KwValue(1.0 / 0.0), KwValue(true), KwValue(std::string("3"))}) {
    args.observer_kwargs["absmax"] = bad;
    CHECK_FALSE(constant_absmax(args));
    CHECK(code_of(args, static_activation_scale) == ErrorCode::recipe);
  }
  args.observer_kwargs["absmax"] = 1e300;
  CHECK(constant_absmax(args) == 1e300);
  CHECK(code_of(args, static_activation_scale) == ErrorCode::numerical);
  CHECK(code_of(args, static_activation_global_scale) == ErrorCode::numerical);
  args.observer_kwargs["absmax"] = 1e-300;
  CHECK(code_of(args, static_activation_scale) == ErrorCode::numerical);
  CHECK(code_of(args, static_activation_global_scale) == ErrorCode::numerical);
}

TEST_CASE("codebooks have their own rules") {
  QuantArgs args;
  args.type = NumberType::codebook;
  args.num_bits = 3;
  args.strategy = Strategy::channel;
  CHECK(check(args).empty());
  CHECK(describe(args) == "codebook3 channel");
  CHECK((code_min(args) == 0 && code_max(args) == 7));
  args.double_quant = true;
  CHECK(check(args).size() == 1);
  args.codebook = Codebook::nf4;
  CHECK(check(args).size() == 2);  // 3 bits, and scales of channels are not coded
  args.num_bits = 4;
  args.strategy = Strategy::flat;
  args.group_size = 64;
  args.outlier_percent = 0.45;
  CHECK(check(args).empty());
  CHECK(describe(args) == "nf4 flat 64 double quant + 0.45 % outliers");
  CHECK(sparse_count(args, 100, 100) == 45);
  args.outlier_percent = 51;
  CHECK(check(args).size() == 1);
  args.outlier_percent = std::nan("");
  CHECK(check(args).size() == 1);
  args.outlier_percent = 0;
  args.codebook = Codebook::learned;
  CHECK(check(args).size() == 2);
  args.type = NumberType::integer;
  CHECK(check(args).size() == 2);  // flat, double_quant
}

TEST_CASE("flat blocks run across rows; slices begin where a block of blocks does") {
  QuantArgs args;
  args.type = NumberType::codebook;
  args.codebook = Codebook::nf4;
  args.num_bits = 4;
  args.strategy = Strategy::flat;
  args.group_size = 64;
  const ScaleGrid grid = scale_grid(args, 5, 96);
  CHECK((grid.rows == 8 && grid.cols == 1 && grid.flat == 64 && grid.count() == 8));
  CHECK(scale_row_alignment(args, 96) == 2);
  CHECK(first_scale(args, 4, 96) == 6);
  args.double_quant = true;
  CHECK(scale_row_alignment(args, 96) == 512);
  CHECK(first_scale(args, 512, 96) == 768);
  args.strategy = Strategy::group;
  CHECK(scale_row_alignment(args, 96) == 128);
  args.double_quant = false;
  CHECK(scale_row_alignment(args, 96) == 1);
  CHECK(first_scale(args, 3, 96) == 6);
  args.strategy = Strategy::tensor;
  CHECK(first_scale(args, 3, 96) == 0);
}
