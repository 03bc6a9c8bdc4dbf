// The named schemes of compressed-tensors (quant_scheme.py); tests/recipes/presets.json holds them field by field.
#include <algorithm>
#include <cctype>

#include "quant/block_encode.h"
#include "quant/scheme.h"

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
  list.push_back({"MXFP4XFP8", scheme_of(mx_args(4), dynamic_args(float_args(8, Strategy::group, 128)))});
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

}  // namespace

std::optional<Scheme> preset_scheme(std::string_view name) {
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const auto& entry : presets()) {
    if (entry.name == upper) return entry.scheme;
  }
  constexpr std::string_view kPrefix = "GGUF_";
  const std::string_view rest = std::string_view(upper).substr(upper.starts_with(kPrefix) ? kPrefix.size() : 0);
  const BlockFormat* format = find_block_format(rest);
  if (format != nullptr && format->weights > 1 && can_encode(format->type)) return scheme_of(block_args(format->type));
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

}  // namespace quant
