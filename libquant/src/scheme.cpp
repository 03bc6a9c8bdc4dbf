#include "quant/scheme.h"

#include <algorithm>

#include "quant/observers.h"

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
  if (args.type == NumberType::floating && !args.symmetric) {
    problems.push_back("symmetric: type float must be symmetric");
  }
}

bool is_grouped(Strategy strategy) { return strategy == Strategy::group || strategy == Strategy::tensor_group; }

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
  if (args.zp_dtype && !args.symmetric && args.type == NumberType::integer && args.zp_dtype != DType::I8) {
    problems.push_back("zp_dtype: zero points of 1 to 8 bits are int8");
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

std::string_view to_string(NumberType type) { return type == NumberType::integer ? "int" : "float"; }

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
  infer_strategy(args, strategy_given);
  check_numbers(args, problems);
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

SymmetricRange symmetric_range(const QuantArgs& args) {
  const std::string* value = text_kwarg(args, "symmetric_range");
  if (value == nullptr || *value == "standard") return SymmetricRange::standard;
  return *value == "restricted" ? SymmetricRange::restricted : SymmetricRange::full;
}

int code_min(const QuantArgs& args) {
  const int lowest = -(1 << (args.num_bits - 1));
  const bool restricted = args.symmetric && symmetric_range(args) == SymmetricRange::restricted;
  return restricted ? std::min(lowest + 1, code_max(args)) : lowest;
}

int code_max(const QuantArgs& args) { return (1 << (args.num_bits - 1)) - 1; }

DType element_dtype(const QuantArgs& args) {
  if (args.type == NumberType::integer) return DType::I8;
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
    case Strategy::channel:
    case Strategy::token:
    case Strategy::attn_head:
      return {rows, 1, 1, all_cols};
  }
  return {1, 1, all_rows, all_cols};
}

std::string describe(const QuantArgs& args) {
  std::string text;
  if (is_nvfp4(args)) return "nvfp4 group " + std::to_string(args.group_size.value_or(16));
  if (is_mx(args)) return "mxfp" + std::to_string(args.num_bits) + " group 32";
  if (args.type == NumberType::integer) {
    text = "int" + std::to_string(args.num_bits) + (args.symmetric ? " sym" : " asym");
    if (args.symmetric && symmetric_range(args) == SymmetricRange::restricted) text += " restricted";
    if (args.symmetric && symmetric_range(args) == SymmetricRange::full) text += " full-range";
  } else {
    text = args.num_bits == 4 ? "fp4" : element_dtype(args) == DType::F8_E5M2 ? "fp8-e5m2" : "fp8-e4m3";
  }
  text += " " + std::string(to_string(args.strategy));
  if (args.group_size) text += " " + std::to_string(*args.group_size);
  if (args.block_structure) {
    text += " " + std::to_string((*args.block_structure)[0]) + "x" + std::to_string((*args.block_structure)[1]);
  }
  return text;
}

}  // namespace quant
