#include "layouts/compressed_tensors/formats.h"

#include <array>
#include <utility>

namespace quant::compressed_tensors {
namespace {

constexpr std::array<std::pair<Format, std::string_view>, 8> kNames = {{
    {Format::pack_quantized, "pack-quantized"},
    {Format::pack_quantized_old, "pack-quantized-0.17"},
    {Format::int_quantized, "int-quantized"},
    {Format::float_quantized, "float-quantized"},
    {Format::naive_quantized, "naive-quantized"},
    {Format::nvfp4, "nvfp4-pack-quantized"},
    {Format::mxfp4, "mxfp4-pack-quantized"},
    {Format::mxfp8, "mxfp8-quantized"},
}};

bool is_stored_as_is(DType type) { return type == DType::F32 || type == DType::F16 || type == DType::BF16; }

}  // namespace

std::string_view format_name(Format format) {
  for (const auto& [value, name] : kNames) {
    if (value == format) return name;
  }
  return "";
}

std::optional<Format> parse_format(std::string_view name) {
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
  }
  return std::nullopt;
}

Format choose_format(const Scheme& scheme) {
  if (scheme.format) {
    if (const auto named = parse_format(*scheme.format)) return *named;
  }
  if (!scheme.weights) return Format::naive_quantized;
  const QuantArgs& args = *scheme.weights;
  if (is_mx(args)) return args.num_bits == 4 ? Format::mxfp4 : Format::mxfp8;
  if (args.type == NumberType::floating && args.num_bits == 4) return Format::nvfp4;
  if (args.type == NumberType::integer) {
    return scheme.input_activations ? Format::int_quantized : Format::pack_quantized;
  }
  return scheme.input_activations ? Format::float_quantized : Format::naive_quantized;
}

bool is_packed_integers(Format format) {
  return format == Format::pack_quantized || format == Format::pack_quantized_old;
}

bool is_fp4(Format format) { return format == Format::nvfp4 || format == Format::mxfp4; }

bool packs_zero_points(Format format, const QuantArgs& args) {
  return is_packed_integers(format) && !args.symmetric &&
         (args.strategy == Strategy::group || args.strategy == Strategy::channel);
}

DType stored_scale_dtype(const QuantArgs& args, DType weight_dtype) {
  if (is_mx(args)) return DType::U8;
  if (is_nvfp4(args)) return DType::F8_E4M3;
  if (args.scale_dtype && is_stored_as_is(*args.scale_dtype)) return *args.scale_dtype;
  if (is_stored_as_is(weight_dtype)) return weight_dtype;
  // The package falls back to F16 for types that are no usual weight type; F64 keeps what F32 can hold of it.
  return weight_dtype == DType::F64 ? DType::F32 : DType::F16;
}

std::uint64_t slice_alignment(Format format, const QuantArgs& args) {
  if (args.strategy == Strategy::block) return args.block_structure.value_or(std::array<std::uint64_t, 2>{1, 1})[0];
  if (!packs_zero_points(format, args)) return 1;
  return format == Format::pack_quantized_old ? 32U / static_cast<unsigned>(args.num_bits) : 32U;
}

}  // namespace quant::compressed_tensors
