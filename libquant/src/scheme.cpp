#include "quant/scheme.h"

#include <algorithm>
#include <cctype>

#include "quant/error.h"

namespace quant {
namespace {

struct PresetEntry {
  std::string_view name;
  Scheme scheme;
};

QuantArgs int_args(int bits, Strategy strategy, bool symmetric = true) {
  QuantArgs args;
  args.num_bits = bits;
  args.strategy = strategy;
  args.symmetric = symmetric;
  if (strategy == Strategy::group) args.group_size = 128;
  if (strategy == Strategy::token) args.dynamic = Dynamic::yes;
  return args;
}

QuantArgs float_args(int bits, Strategy strategy, std::optional<std::int64_t> group_size = {}) {
  QuantArgs args;
  args.num_bits = bits;
  args.type = NumberType::floating;
  args.strategy = strategy;
  args.group_size = group_size;
  if (strategy == Strategy::token) args.dynamic = Dynamic::yes;
  return args;
}

QuantArgs dynamic_args(QuantArgs args) {
  args.dynamic = Dynamic::yes;
  return args;
}

QuantArgs mx_args(int bits) {
  QuantArgs args = float_args(bits, Strategy::group, 32);
  args.scale_dtype = DType::U8;
  return args;
}

QuantArgs nvfp4_args() {
  QuantArgs args = float_args(4, Strategy::tensor_group, 16);
  args.scale_dtype = DType::F8_E4M3;
  return args;
}

QuantArgs static_minmax(QuantArgs args) {
  args.observer = "static_minmax";
  return args;
}

Scheme scheme_of(std::optional<QuantArgs> weights, std::optional<QuantArgs> inputs = {}) {
  Scheme scheme;
  scheme.weights = std::move(weights);
  scheme.input_activations = std::move(inputs);
  return scheme;
}

void add_integer_presets(std::vector<PresetEntry>& list) {
  static constexpr std::string_view kWeightOnly[] = {"W8A16", "W7A16", "W6A16", "W5A16", "W4A16", "W3A16", "W2A16"};
  static constexpr std::string_view kInt8Inputs[] = {"W7A8", "W6A8", "W5A8", "W4A8", "W3A8", "W2A8"};
  static constexpr std::string_view kInt4Inputs[] = {"W4A4", "W3A4", "W2A4"};
  const auto bits_of = [](std::string_view name) { return name[1] - '0'; };
  for (const auto name : kWeightOnly) list.push_back({name, scheme_of(int_args(bits_of(name), Strategy::group))});
  list.push_back({"W4A16_ASYM", scheme_of(int_args(4, Strategy::group, false))});
  const Scheme w8a8 = scheme_of(int_args(8, Strategy::channel), int_args(8, Strategy::token));
  list.push_back({"W8A8", w8a8});
  list.push_back({"INT8", w8a8});
  for (const auto name : kInt8Inputs) {
    list.push_back({name, scheme_of(int_args(bits_of(name), Strategy::group), int_args(8, Strategy::token))});
  }
  for (const auto name : kInt4Inputs) {
    list.push_back({name, scheme_of(int_args(bits_of(name), Strategy::group), int_args(4, Strategy::token))});
  }
  list.push_back({"W4AFP8", scheme_of(int_args(4, Strategy::group), float_args(8, Strategy::token))});
}

void add_float_presets(std::vector<PresetEntry>& list) {
  list.push_back({"FP8", scheme_of(float_args(8, Strategy::tensor), static_minmax(float_args(8, Strategy::tensor)))});
  list.push_back({"FP8_DYNAMIC", scheme_of(float_args(8, Strategy::channel), float_args(8, Strategy::token))});
  QuantArgs block = float_args(8, Strategy::block);
  block.block_structure = {128, 128};
  list.push_back({"FP8_BLOCK", scheme_of(block, dynamic_args(float_args(8, Strategy::group, 128)))});
  QuantArgs local = static_minmax(nvfp4_args());
  local.dynamic = Dynamic::local;
  list.push_back({"NVFP4A16", scheme_of(nvfp4_args())});
  list.push_back({"NVFP4", scheme_of(nvfp4_args(), local)});
  list.push_back({"MXFP4A16", scheme_of(mx_args(4))});
  list.push_back({"MXFP4", scheme_of(mx_args(4), dynamic_args(mx_args(4)))});
  list.push_back({"MXFP8A16", scheme_of(mx_args(8))});
  list.push_back({"MXFP8", scheme_of(mx_args(8), dynamic_args(mx_args(8)))});
}

const std::vector<PresetEntry>& presets() {
  static const std::vector<PresetEntry> list = [] {
    std::vector<PresetEntry> entries;
    entries.push_back({"UNQUANTIZED", Scheme{}});
    add_integer_presets(entries);
    add_float_presets(entries);
    return entries;
  }();
  return list;
}

void infer_strategy(QuantArgs& args, bool given) {
  if (args.group_size == -1) {
    args.group_size.reset();
    if (!given) args.strategy = Strategy::channel;
    return;
  }
  if (given) return;
  if (args.block_structure) args.strategy = Strategy::block;
  else if (args.group_size) args.strategy = Strategy::group;
  else args.strategy = Strategy::tensor;
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

void check_strategy(const QuantArgs& args, std::vector<std::string>& problems) {
  const std::string strategy(to_string(args.strategy));
  if (args.group_size && *args.group_size <= 0) {
    problems.push_back("group_size: " + std::to_string(*args.group_size) + " is neither -1 nor positive");
  }
  if (is_grouped(args.strategy) && !args.group_size) problems.push_back("group_size: strategy " + strategy + " needs one");
  if (!is_grouped(args.strategy) && args.group_size) {
    problems.push_back("group_size: strategy " + strategy + " has none");
  }
  if (args.strategy == Strategy::block && !args.block_structure) {
    problems.push_back("block_structure: strategy block needs [rows, columns]");
  }
  if (args.strategy != Strategy::block && args.block_structure) {
    problems.push_back("block_structure: only strategy block has one");
  }
  if (args.block_structure && ((*args.block_structure)[0] == 0 || (*args.block_structure)[1] == 0)) {
    problems.push_back("block_structure: both numbers must be positive");
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
  if (args.dynamic == Dynamic::yes && args.observer && *args.observer != "memoryless_minmax") {
    problems.push_back("observer: dynamic numbers have none");
  }
  if (args.actorder == ActOrder::group && !is_grouped(args.strategy)) {
    problems.push_back("actorder: group needs strategy group or tensor_group");
  }
}

const std::string* text_kwarg(const QuantArgs& args, const std::string& name) {
  const auto found = args.observer_kwargs.find(name);
  return found == args.observer_kwargs.end() ? nullptr : std::get_if<std::string>(&found->second);
}

void check_own_kwargs(const QuantArgs& args, std::vector<std::string>& problems) {
  const auto check = [&](const std::string& name, std::initializer_list<std::string_view> values, bool applies,
                         const std::string& where) {
    if (!args.observer_kwargs.contains(name)) return;
    const std::string* value = text_kwarg(args, name);
    std::string list;
    for (const auto v : values) list += (list.empty() ? "" : ", ") + std::string(v);
    if (value == nullptr || std::find(values.begin(), values.end(), *value) == values.end()) {
      problems.push_back("observer_kwargs." + name + ": must be one of " + list);
    } else if (!applies) {
      problems.push_back("observer_kwargs." + name + ": " + where);
    }
  };
  check("symmetric_range", {"standard", "restricted", "full"}, args.type == NumberType::integer && args.symmetric,
        "applies to symmetric integers only");
  check("float8_format", {"e4m3", "e5m2"}, args.type == NumberType::floating && args.num_bits == 8,
        "applies to 8-bit floats only");
}

}  // namespace

std::string_view to_string(NumberType type) { return type == NumberType::integer ? "int" : "float"; }

std::string_view to_string(Strategy strategy) {
  switch (strategy) {
    case Strategy::tensor: return "tensor";
    case Strategy::channel: return "channel";
    case Strategy::group: return "group";
    case Strategy::block: return "block";
    case Strategy::token: return "token";
    case Strategy::tensor_group: return "tensor_group";
    case Strategy::attn_head: return "attn_head";
  }
  return "tensor";
}

std::string_view to_string(ActOrder order) {
  switch (order) {
    case ActOrder::none: return "none";
    case ActOrder::group: return "group";
    case ActOrder::weight: return "static";
  }
  return "none";
}

std::optional<Scheme> preset_scheme(std::string_view name) {
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const auto& entry : presets()) {
    if (entry.name == upper) return entry.scheme;
  }
  return std::nullopt;
}

const std::vector<std::string_view>& preset_names() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for (const auto& entry : presets()) list.push_back(entry.name);
    return list;
  }();
  return names;
}

std::vector<std::string> complete_and_check(QuantArgs& args, bool strategy_given) {
  std::vector<std::string> problems;
  infer_strategy(args, strategy_given);
  check_numbers(args, problems);
  check_strategy(args, problems);
  check_dynamics(args, problems);
  check_own_kwargs(args, problems);
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
    case DType::F4: return 6.0F;
    case DType::F8_E5M2: return 57344.0F;
    default: return 448.0F;
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
    case Strategy::tensor: return {1, 1, all_rows, all_cols};
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
    case Strategy::attn_head: return {rows, 1, 1, all_cols};
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
    text = args.num_bits == 4 ? "fp4" : element_dtype(args) == DType::F8_E5M2 ? "fp8-e5m2" : "fp8";
  }
  text += " " + std::string(to_string(args.strategy));
  if (args.group_size) text += " " + std::to_string(*args.group_size);
  if (args.block_structure) {
    text += " " + std::to_string((*args.block_structure)[0]) + "x" + std::to_string((*args.block_structure)[1]);
  }
  return text;
}

}  // namespace quant
