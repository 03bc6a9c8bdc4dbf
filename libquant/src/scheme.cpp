#include "quant/scheme.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "quant/observers.h"
#include "quant/quantized_tensor.h"

namespace quant {
namespace {

void infer_strategy(QuantArgs& args, bool given) {
  if (args.group_size == -1) {
    args.group_size.reset();
    if (!given) args.strategy = Strategy::channel;
    return;
  }
  if (given) return;
  args.strategy = Strategy::tensor;
  if (args.group_size) args.strategy = Strategy::group;
  if (args.block_structure) args.strategy = Strategy::block;
}

void check_numbers(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.type == NumberType::integer && (args.num_bits < 1 || args.num_bits > 8)) {
    problems.push_back("num_bits: " + std::to_string(args.num_bits) + " is not in 1..8 for type int");
  }
  if (args.type == NumberType::floating && args.num_bits != 4 && args.num_bits != 8) {
    problems.push_back("num_bits: " + std::to_string(args.num_bits) + " is not 4 or 8 for type float");
  }
  if (args.type != NumberType::integer && !args.symmetric) {
    problems.push_back("symmetric: type " + std::string(to_string(args.type)) + " must be symmetric");
  }
}

// What a block format fixes is filled in.
void complete_block(QuantArgs& args, std::vector<std::string>& problems) {
  if (args.type != NumberType::block) {
    if (args.block) problems.push_back("block: only type block has one");
    return;
  }
  if (!args.block) {
    problems.push_back("block: type block needs the name of a block format, such as Q4_K");
    return;
  }
  const QuantArgs whole = block_args(*args.block);
  const std::string name(block_format(*args.block).name);
  if (args.group_size && *args.group_size != *whole.group_size) {
    problems.push_back("group_size: blocks of " + name + " hold " + std::to_string(*whole.group_size) + " weights");
  }
  if (args.dynamic != Dynamic::no) problems.push_back("dynamic: blocks are for weights, which are static");
  if (args.actorder) problems.push_back("actorder: columns of blocks stay in order");
  if (args.scale_dtype) problems.push_back("scale_dtype: the scales of blocks are part of them");
  if (args.observer || !args.observer_kwargs.empty())
    problems.push_back("observer: blocks find their scales themselves");
  if (args.outlier_percent + args.sensitive_percent > 0)
    problems.push_back("outlier_percent: blocks have no sparse part");
  args.num_bits = whole.num_bits;
  args.strategy = whole.strategy;
  args.group_size = whole.group_size;
}

bool is_grouped(Strategy strategy) {
  return strategy == Strategy::group || strategy == Strategy::tensor_group || strategy == Strategy::flat;
}

void check_codebook(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.type != NumberType::codebook) {
    if (args.codebook != Codebook::learned) problems.push_back("codebook: only type codebook has one");
    if (args.strategy == Strategy::flat) problems.push_back("strategy: flat is for type codebook");
    if (args.double_quant) problems.push_back("double_quant: only nf4 and fp4 have coded scales");
    return;
  }
  const std::string name(to_string(args.codebook));
  if (args.num_bits < 1 || args.num_bits > 8) {
    problems.push_back("num_bits: " + std::to_string(args.num_bits) + " is not in 1..8 for type codebook");
  } else if (args.codebook == Codebook::sign && args.num_bits != 1) {
    problems.push_back("num_bits: " + name + " has 1 bit, not " + std::to_string(args.num_bits));
  } else if ((args.codebook == Codebook::nf4 || args.codebook == Codebook::fp4) && args.num_bits != 4) {
    problems.push_back("num_bits: " + name + " has 4 bits, not " + std::to_string(args.num_bits));
  }
  if (args.dynamic != Dynamic::no) problems.push_back("dynamic: codebooks are for weights, which are static");
  if (args.codebook == Codebook::learned && args.strategy == Strategy::flat) {
    problems.push_back("strategy: a learned codebook belongs to a tensor, channel, group or block, not flat");
  }
  if (args.double_quant && args.codebook != Codebook::nf4 && args.codebook != Codebook::fp4) {
    problems.push_back("double_quant: only the scales of nf4 and fp4 are coded");
  } else if (args.double_quant && args.strategy != Strategy::group && args.strategy != Strategy::flat) {
    problems.push_back("double_quant: needs strategy group or flat");
  }
}

void check_sparse(const QuantArgs& args, std::vector<std::string>& problems) {
  constexpr double kMost = 50;
  const auto check = [&](const char* name, double percent) {
    if (percent >= 0 && percent <= kMost) return;  // false for NaN
    problems.push_back(std::string(name) + ": must be from 0 to 50 percent of the weights");
  };
  check("outlier_percent", args.outlier_percent);
  check("sensitive_percent", args.sensitive_percent);
  if (args.dynamic != Dynamic::no && args.outlier_percent + args.sensitive_percent > 0) {
    problems.push_back("outlier_percent: only weights have a sparse part");
  }
}

void check_outlier_threshold(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.outlier_threshold == 0) return;
  if (!(args.outlier_threshold > 0 && args.outlier_threshold <= 1e6)) {
    problems.push_back("outlier_threshold: must be from 0 to 1000000");
  }
  if (args.type == NumberType::integer && args.symmetric && args.strategy == Strategy::token &&
      args.dynamic == Dynamic::yes) {
    return;
  }
  problems.push_back("outlier_threshold: is for symmetric integer inputs with dynamic scales per token");
}

// What is written into config.json must be read back, and readers hold sizes as signed 32-bit numbers.
constexpr std::uint64_t kLargestSize = 2147483647;  // 2^31 - 1

void check_sizes(const QuantArgs& args, std::vector<std::string>& problems) {
  const std::string limit = "is larger than " + std::to_string(kLargestSize);
  if (args.group_size && *args.group_size <= 0) {
    problems.push_back("group_size: " + std::to_string(*args.group_size) + " is neither -1 nor positive");
  } else if (args.group_size && static_cast<std::uint64_t>(*args.group_size) > kLargestSize) {
    problems.push_back("group_size: " + std::to_string(*args.group_size) + " " + limit);
  }
  if (!args.block_structure) return;
  const auto [rows, columns] = *args.block_structure;
  if (rows == 0 || columns == 0) problems.push_back("block_structure: both numbers must be positive");
  const std::uint64_t larger = std::max(rows, columns);
  if (larger > kLargestSize) problems.push_back("block_structure: " + std::to_string(larger) + " " + limit);
}

void check_strategy(const QuantArgs& args, std::vector<std::string>& problems) {
  const std::string strategy(to_string(args.strategy));
  if (is_grouped(args.strategy) && !args.group_size) {
    problems.push_back("group_size: strategy " + strategy + " needs one");
  }
  if (!is_grouped(args.strategy) && args.group_size > 0) {
    problems.push_back("group_size: strategy " + strategy + " has none");
  }
  if (args.strategy == Strategy::block && !args.block_structure) {
    problems.push_back("block_structure: strategy block needs [rows, columns]");
  }
  if (args.strategy != Strategy::block && args.block_structure) {
    problems.push_back("block_structure: only strategy block has one");
  }
}

void check_dynamics(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.strategy == Strategy::token && args.dynamic != Dynamic::yes) {
    problems.push_back("dynamic: strategy token needs true");
  }
  if (args.dynamic == Dynamic::local && args.strategy != Strategy::tensor_group) {
    problems.push_back("dynamic: local needs strategy tensor_group");
  }
  if (args.dynamic == Dynamic::yes && (args.strategy == Strategy::channel || args.strategy == Strategy::block ||
                                       args.strategy == Strategy::attn_head)) {
    problems.push_back("dynamic: strategy " + std::string(to_string(args.strategy)) + " cannot be dynamic");
  }
  if (args.actorder == ActOrder::group && !is_grouped(args.strategy)) {
    problems.push_back("actorder: group needs strategy group or tensor_group");
  }
}

const std::string* text_kwarg(const QuantArgs& args, const std::string& name) {
  const auto found = args.observer_kwargs.find(name);
  return found == args.observer_kwargs.end() ? nullptr : std::get_if<std::string>(&found->second);
}

void check_kwargs(const QuantArgs& args, std::vector<std::string>& problems) {
  const bool symmetric_integer = args.type == NumberType::integer && args.symmetric;
  if (args.observer_kwargs.contains("symmetric_range") && !symmetric_integer) {
    problems.push_back("observer_kwargs.symmetric_range: applies to symmetric integers only");
  }
  if (symmetric_integer && args.num_bits == 1 && symmetric_range(args) == SymmetricRange::restricted) {
    problems.push_back("observer_kwargs.symmetric_range: restricted needs at least 2 bits");
  }
  const bool float8 = args.type == NumberType::floating && args.num_bits == 8;
  if (args.observer_kwargs.contains("float8_format") && !float8) {
    problems.push_back("observer_kwargs.float8_format: applies to 8-bit floats only");
  }
  if (args.observer_kwargs.contains("absmax") && args.dynamic != Dynamic::no) {
    problems.push_back("observer_kwargs.absmax: dynamic numbers measure their range themselves");
  }
}

/// The scale types that follow from the number format: E4M3 for NVFP4, E8M0 (uint8) for MXFP4.
void complete_scale_dtype(QuantArgs& args) {
  if (args.scale_dtype || args.type != NumberType::floating || args.num_bits != 4) return;
  if (args.strategy == Strategy::tensor_group) args.scale_dtype = DType::F8_E4M3;
  if (args.strategy == Strategy::group && args.group_size == 32) args.scale_dtype = DType::U8;
}

void check_tensor_group(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.strategy != Strategy::tensor_group) return;
  if (args.type != NumberType::floating || args.num_bits != 4) {
    problems.push_back("strategy: tensor_group is NVFP4, it needs type float and 4 bits");
  }
  if (args.group_size && *args.group_size > 0 && *args.group_size != 16) {
    problems.push_back("group_size: NVFP4 has groups of 16, not " + std::to_string(*args.group_size));
  }
  if (args.scale_dtype && args.scale_dtype != DType::F8_E4M3) {
    problems.push_back("scale_dtype: NVFP4 scales are float8_e4m3fn");
  }
}

void check_scale_dtype(const QuantArgs& args, std::vector<std::string>& problems) {
  if (!args.scale_dtype || args.strategy == Strategy::tensor_group) return;
  switch (*args.scale_dtype) {
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      return;
    case DType::U8:
    case DType::F8_E8M0:
      if (!is_mx(args)) problems.push_back("scale_dtype: uint8 scales need type float and strategy group of 32");
      return;
    default:
      problems.push_back("scale_dtype: must be float32, float16, bfloat16, uint8 (MX) or float8_e4m3fn (NVFP4)");
  }
}

void check_zp_dtype(const QuantArgs& args, std::vector<std::string>& problems) {
  if (args.zp_dtype && !args.symmetric && args.type == NumberType::integer && args.zp_dtype != DType::I8 &&
      !has_real_zero_points(args)) {
    problems.push_back(
        "zp_dtype: zero points of 1 to 8 bits are int8, or real numbers as float32, float16 or bfloat16");
  }
}

/// Dynamic ranges are those of the values at hand. compressed-tensors drops an observer given beside them; that is done
/// here too where it means the same, and refused where the recipe would get something else than it asks for.
void check_dynamic_observer(QuantArgs& args, std::vector<std::string>& problems) {
  if (args.dynamic != Dynamic::yes || !args.observer) return;
  if (args.observer == "memoryless_minmax" || args.observer == "static_minmax" || args.observer == "minmax") {
    args.observer.reset();
    args.observer_kwargs.erase("averaging_constant");
  } else {
    problems.push_back("observer: dynamic numbers take the range of the values at hand, they cannot use '" +
                       *args.observer + "'");
  }
}

}  // namespace

std::string_view to_string(NumberType type) {
  switch (type) {
    case NumberType::integer:
      return "int";
    case NumberType::floating:
      return "float";
    case NumberType::codebook:
      return "codebook";
    case NumberType::plain:
      return "plain";
    case NumberType::block:
      return "block";
  }
  return "int";
}

std::string_view to_string(Codebook codebook) {
  switch (codebook) {
    case Codebook::learned:
      return "learned";
    case Codebook::nf4:
      return "nf4";
    case Codebook::fp4:
      return "fp4";
    case Codebook::sign:
      return "sign";
  }
  return "learned";
}

std::string_view to_string(Strategy strategy) {
  switch (strategy) {
    case Strategy::tensor:
      return "tensor";
    case Strategy::channel:
      return "channel";
    case Strategy::group:
      return "group";
    case Strategy::block:
      return "block";
    case Strategy::token:
      return "token";
    case Strategy::tensor_group:
      return "tensor_group";
    case Strategy::attn_head:
      return "attn_head";
    case Strategy::flat:
      return "flat";
  }
  return "tensor";
}

std::string_view to_string(ActOrder order) {
  switch (order) {
    case ActOrder::none:
      return "none";
    case ActOrder::group:
      return "group";
    case ActOrder::weight:
      return "static";
  }
  return "none";
}

std::vector<std::string> complete_and_check(QuantArgs& args, bool strategy_given) {
  std::vector<std::string> problems;
  complete_block(args, problems);
  infer_strategy(args, strategy_given);
  check_numbers(args, problems);
  check_codebook(args, problems);
  check_sparse(args, problems);
  check_outlier_threshold(args, problems);
  check_sizes(args, problems);
  check_strategy(args, problems);
  check_dynamics(args, problems);
  complete_scale_dtype(args);
  check_tensor_group(args, problems);
  check_scale_dtype(args, problems);
  check_zp_dtype(args, problems);
  check_kwargs(args, problems);
  const auto of_observer = check_observer(args);
  problems.insert(problems.end(), of_observer.begin(), of_observer.end());
  if (of_observer.empty()) check_dynamic_observer(args, problems);
  return problems;
}

QuantArgs plain_args() {
  QuantArgs args;
  args.num_bits = 16;
  args.type = NumberType::plain;
  args.strategy = Strategy::channel;
  return args;
}

bool is_plain(const QuantArgs& args) { return args.type == NumberType::plain; }

SymmetricRange symmetric_range(const QuantArgs& args) {
  const std::string* value = text_kwarg(args, "symmetric_range");
  if (value == nullptr || *value == "standard") return SymmetricRange::standard;
  return *value == "restricted" ? SymmetricRange::restricted : SymmetricRange::full;
}

int code_min(const QuantArgs& args) {
  if (args.type == NumberType::codebook || args.type == NumberType::block) return 0;
  const int lowest = -(1 << (args.num_bits - 1));
  const bool restricted = args.symmetric && symmetric_range(args) == SymmetricRange::restricted;
  return restricted ? std::min(lowest + 1, code_max(args)) : lowest;
}

int code_max(const QuantArgs& args) {
  const bool from_zero = args.type == NumberType::codebook || args.type == NumberType::block;
  return from_zero ? (1 << args.num_bits) - 1 : (1 << (args.num_bits - 1)) - 1;
}

DType element_dtype(const QuantArgs& args) {
  if (args.type == NumberType::integer) return DType::I8;
  if (args.type == NumberType::codebook || args.type == NumberType::block) return DType::U8;
  if (args.num_bits == 4) return DType::F4;
  const std::string* format = text_kwarg(args, "float8_format");
  return format != nullptr && *format == "e5m2" ? DType::F8_E5M2 : DType::F8_E4M3;
}

float float_max(const QuantArgs& args) {
  switch (element_dtype(args)) {
    case DType::F4:
      return 6.0F;
    case DType::F8_E5M2:
      return 57344.0F;
    default:
      return 448.0F;
  }
}

bool is_mx(const QuantArgs& args) {
  return args.type == NumberType::floating && args.strategy == Strategy::group && args.group_size == 32 &&
         (args.scale_dtype == DType::U8 || args.scale_dtype == DType::F8_E8M0);
}

bool is_nvfp4(const QuantArgs& args) {
  return args.type == NumberType::floating && args.num_bits == 4 && args.strategy == Strategy::tensor_group;
}

bool is_ternary(const QuantArgs& args) {
  return args.type == NumberType::integer && args.symmetric && args.num_bits == 2 &&
         symmetric_range(args) == SymmetricRange::restricted;
}

bool has_fixed_codebook(const QuantArgs& args) {
  return args.type == NumberType::codebook && args.codebook != Codebook::learned;
}

bool has_learned_codebook(const QuantArgs& args) {
  return args.type == NumberType::codebook && args.codebook == Codebook::learned;
}

bool has_codes(const QuantArgs& args) { return !is_plain(args) && !has_blocks(args); }

bool has_blocks(const QuantArgs& args) { return args.type == NumberType::block; }

QuantArgs block_args(BlockType type) {
  const BlockFormat& format = block_format(type);
  QuantArgs args;
  args.type = NumberType::block;
  args.block = type;
  args.num_bits = format.code_bits;
  args.strategy = Strategy::group;
  args.group_size = format.weights;
  return args;
}

bool has_real_zero_points(const QuantArgs& args) {
  if (args.type != NumberType::integer || args.symmetric) return false;
  return args.zp_dtype == DType::F32 || args.zp_dtype == DType::F16 || args.zp_dtype == DType::BF16;
}

bool needs_whole_tensor(const QuantArgs& args) {
  return args.strategy == Strategy::tensor || is_nvfp4(args) || args.double_quant;
}

std::span<const float> fixed_codebook(Codebook codebook) {
  static constexpr std::array<float, 16> kNf4 = {-1.0F,
                                                 -0.6961928009986877F,
                                                 -0.5250730514526367F,
                                                 -0.39491748809814453F,
                                                 -0.28444138169288635F,
                                                 -0.18477343022823334F,
                                                 -0.09105003625154495F,
                                                 0.0F,
                                                 0.07958029955625534F,
                                                 0.16093020141124725F,
                                                 0.24611230194568634F,
                                                 0.33791524171829224F,
                                                 0.44070982933044434F,
                                                 0.5626170039176941F,
                                                 0.7229568362236023F,
                                                 1.0F};
  static constexpr std::array<float, 16> kFp4 = {
      0.0F, 0.0625F / 12.0F,  8.0F / 12.0F,  1.0F,  4.0F / 12.0F,  6.0F / 12.0F,  2.0F / 12.0F,  3.0F / 12.0F,
      0.0F, -0.0625F / 12.0F, -8.0F / 12.0F, -1.0F, -4.0F / 12.0F, -6.0F / 12.0F, -2.0F / 12.0F, -3.0F / 12.0F};
  static constexpr std::array<float, 2> kSigns = {-1.0F, 1.0F};
  switch (codebook) {
    case Codebook::nf4:
      return kNf4;
    case Codebook::fp4:
      return kFp4;
    case Codebook::sign:
      return kSigns;
    case Codebook::learned:
      return {};
  }
  return {};
}

std::uint64_t sparse_count(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  const double size = static_cast<double>(rows) * static_cast<double>(cols);
  const auto part = [&](double percent) { return static_cast<std::uint64_t>(std::llround(size * percent / 100)); };
  return std::min(part(args.outlier_percent) + part(args.sensitive_percent), rows * cols);
}

ScaleGrid scale_grid(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  const auto parts = [](std::uint64_t total, std::uint64_t size) { return total / size + (total % size != 0 ? 1 : 0); };
  const std::uint64_t all_rows = std::max<std::uint64_t>(rows, 1);
  const std::uint64_t all_cols = std::max<std::uint64_t>(cols, 1);
  switch (args.strategy) {
    case Strategy::tensor:
      return {1, 1, all_rows, all_cols};
    case Strategy::group:
    case Strategy::tensor_group: {
      const auto size = static_cast<std::uint64_t>(args.group_size.value_or(static_cast<std::int64_t>(all_cols)));
      return {rows, parts(cols, size), 1, size};
    }
    case Strategy::block: {
      const auto [height, width] = args.block_structure.value_or(std::array<std::uint64_t, 2>{all_rows, all_cols});
      return {parts(rows, height), parts(cols, width), height, width};
    }
    case Strategy::flat: {
      const auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(1, args.group_size.value_or(1)));
      return {parts(rows * cols, size), 1, all_rows, all_cols, size};
    }
    case Strategy::channel:
    case Strategy::token:
    case Strategy::attn_head:
      return {rows, 1, 1, all_cols};
  }
  return {1, 1, all_rows, all_cols};
}

std::uint64_t scale_row_alignment(const QuantArgs& args, std::uint64_t cols) {
  const std::uint64_t nested = args.double_quant ? CodedScales::kBlock : 1;
  const ScaleGrid grid = scale_grid(args, 1, cols);
  if (grid.flat != 0) {
    const std::uint64_t together = grid.flat * nested;
    return together / std::gcd(together, std::max<std::uint64_t>(1, cols));
  }
  if (args.strategy == Strategy::block) return args.block_structure.value_or(std::array<std::uint64_t, 2>{1, 1})[0];
  return nested / std::gcd(nested, grid.cols);
}

std::uint64_t first_scale(const QuantArgs& args, std::uint64_t row, std::uint64_t cols) {
  if (args.strategy == Strategy::tensor) return 0;
  const ScaleGrid grid = scale_grid(args, row, cols);
  if (row == 0) return 0;
  return grid.flat != 0 ? row * cols / grid.flat : row / grid.row_extent * grid.cols;
}

namespace {

std::string shortest(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

std::string sparse_text(const QuantArgs& args) {
  const auto percent = [](double value) { return shortest(value) + " %"; };
  std::string text;
  if (args.outlier_percent > 0) text += " + " + percent(args.outlier_percent) + " outliers";
  if (args.sensitive_percent > 0) text += " + " + percent(args.sensitive_percent) + " sensitive";
  return text;
}

}  // namespace

std::string describe(const QuantArgs& args) {
  std::string text;
  if (is_plain(args)) return "float";
  if (has_blocks(args)) return "gguf " + (args.block ? std::string(block_format(*args.block).name) : "block");
  if (is_nvfp4(args)) return "nvfp4 group " + std::to_string(args.group_size.value_or(16));
  if (is_mx(args)) return "mxfp" + std::to_string(args.num_bits) + " group 32";
  if (args.type == NumberType::integer) {
    text = "int" + std::to_string(args.num_bits) + (args.symmetric ? " sym" : " asym");
    if (args.symmetric && symmetric_range(args) == SymmetricRange::restricted) text += " restricted";
    if (args.symmetric && symmetric_range(args) == SymmetricRange::full) text += " full-range";
    if (has_real_zero_points(args)) text += " real zero";
  } else if (args.type == NumberType::codebook) {
    text =
        has_learned_codebook(args) ? "codebook" + std::to_string(args.num_bits) : std::string(to_string(args.codebook));
  } else {
    text = args.num_bits == 4 ? "fp4" : element_dtype(args) == DType::F8_E5M2 ? "fp8-e5m2" : "fp8-e4m3";
  }
  text += " " + std::string(to_string(args.strategy));
  if (args.group_size) text += " " + std::to_string(*args.group_size);
  if (args.block_structure) {
    text += " " + std::to_string((*args.block_structure)[0]) + "x" + std::to_string((*args.block_structure)[1]);
  }
  if (args.double_quant) text += " double quant";
  text += sparse_text(args);
  if (args.outlier_threshold > 0) text += " outliers from " + shortest(args.outlier_threshold);
  return text;
}

}  // namespace quant
