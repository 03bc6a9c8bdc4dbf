// Which schemes and shapes the formats can hold.
#include <fmt/format.h>

#include "layouts/compressed_tensors/formats.h"
#include "quant/observers.h"

namespace quant::compressed_tensors {
namespace {

using Reason = std::optional<std::string>;

Reason check_scale_dtype(const QuantArgs& args) {
  if (!args.scale_dtype || is_mx(args)) return {};
  const DType type = *args.scale_dtype;
  if (is_nvfp4(args) ? type == DType::F8_E4M3 : type == DType::F32 || type == DType::F16 || type == DType::BF16)
    return {};
  return fmt::format("weights: scales of {} cannot be stored as {}; leave scale_dtype out", describe(args),
                     dtype_name(type));
}

Reason check_numbers(const QuantArgs& args) {
  if (args.type == NumberType::codebook) {
    return std::string(
        "weights: compressed-tensors has no codebooks; use --layout libquant, or bitsandbytes for nf4 and fp4");
  }
  if (has_blocks(args)) {
    return std::string("weights: compressed-tensors has no place for blocks of GGUF; use --layout libquant or gguf");
  }
  if (args.outlier_percent > 0 || args.sensitive_percent > 0) {
    return std::string("weights: compressed-tensors has no place for a sparse part; use --layout libquant");
  }
  if (has_real_zero_points(args)) {
    return std::string(
        "weights: zero points that are real numbers have no place in compressed-tensors; use --layout libquant");
  }
  if (args.type == NumberType::integer) {
    if (args.num_bits < 1 || args.num_bits > 8)
      return fmt::format("weights: int{} is not in int1..int8", args.num_bits);
    if (args.zp_dtype && *args.zp_dtype != DType::I8) {
      return fmt::format("weights: zero points are stored as I8, not {}; leave zp_dtype out",
                         dtype_name(*args.zp_dtype));
    }
    return {};
  }
  if (!args.symmetric) return std::string("weights: floating-point weights have no zero points; set symmetric: true");
  if (args.num_bits == 8) return {};
  if (args.num_bits != 4)
    return fmt::format("weights: {}-bit floats are not supported, only 4 and 8 bits", args.num_bits);
  if (is_mx(args) || (is_nvfp4(args) && args.group_size == 16)) return {};
  return fmt::format(
      "weights: 4-bit floats are stored as NVFP4 (strategy tensor_group, group_size 16) or MXFP4 (strategy "
      "group, group_size 32, scale_dtype uint8) only, not as {}",
      describe(args));
}

Reason check_strategy(const QuantArgs& args) {
  if (args.strategy == Strategy::token || args.strategy == Strategy::attn_head) {
    return fmt::format("weights: strategy {} is for activations only", to_string(args.strategy));
  }
  if (args.strategy == Strategy::tensor_group && !is_nvfp4(args)) {
    return std::string("weights: strategy tensor_group is for 4-bit floats (NVFP4) only");
  }
  if (args.dynamic != Dynamic::no) return std::string("weights: stored weights cannot be dynamic");
  if (args.strategy == Strategy::block && !args.block_structure) {
    return std::string("weights: strategy block needs block_structure");
  }
  if (args.strategy == Strategy::group && args.group_size.value_or(0) <= 0) {
    return std::string("weights: strategy group needs a positive group_size");
  }
  return {};
}

bool fits(Format format, const QuantArgs& args) {
  switch (format) {
    case Format::pack_quantized:
    case Format::int_quantized:
      return args.type == NumberType::integer;
    case Format::float_quantized:
      return args.type == NumberType::floating && args.num_bits == 8 && !is_mx(args);
    case Format::naive_quantized:
      return (args.type == NumberType::integer || args.num_bits == 8) && !is_mx(args);
    case Format::nvfp4:
      return is_nvfp4(args);
    case Format::mxfp4:
      return is_mx(args) && args.num_bits == 4;
    case Format::mxfp8:
      return is_mx(args) && element_dtype(args) == DType::F8_E4M3;
    case Format::pack_quantized_old:
      return false;
  }
  return false;
}

Reason check_format(const Scheme& scheme) {
  if (scheme.format && !parse_format(*scheme.format)) {
    return fmt::format("format: \"{}\" is no format that can be written", *scheme.format);
  }
  const Format format = choose_format(scheme);
  const QuantArgs& args = *scheme.weights;
  if (!fits(format, args)) {
    return fmt::format("format: {} cannot hold {}; leave format out to have it chosen", format_name(format),
                       describe(args));
  }
  if (args.actorder == ActOrder::group && format != Format::pack_quantized) {
    return fmt::format("weights: actorder group needs weight_g_idx, which {} lacks; use actorder: static",
                       format_name(format));
  }
  if (args.actorder == ActOrder::group && args.strategy != Strategy::group) {
    return std::string("weights: actorder group needs strategy group");
  }
  return {};
}

/// The two-level and power-of-two formats are defined on whole groups, and their readers know no others.
bool needs_whole_groups(Format format) {
  return format == Format::nvfp4 || format == Format::mxfp4 || format == Format::mxfp8;
}

Reason check_shape(const Scheme& scheme, const LinearShape& linear) {
  const QuantArgs& args = *scheme.weights;
  const Format format = choose_format(scheme);
  if (linear.rows == 0 || linear.cols == 0)
    return fmt::format("{} is empty ({}x{})", linear.module, linear.rows, linear.cols);
  if (!is_floating(linear.dtype))
    return fmt::format("{} holds {}, not real numbers", linear.module, dtype_name(linear.dtype));
  if (needs_whole_groups(format) && linear.cols % static_cast<std::uint64_t>(*args.group_size) != 0) {
    return fmt::format(
        "{} has {} columns, which is no multiple of group_size {}, and {} holds whole groups only; choose another "
        "scheme for it, or put it on the ignore list",
        linear.module, linear.cols, *args.group_size, format_name(format));
  }
  return {};
}

Reason check_activations(const QuantArgs& args, std::string_view field, std::string_view dynamic_presets) {
  if (args.outlier_threshold > 0) {
    return fmt::format("{}: compressed-tensors has no outlier_threshold; use --layout bitsandbytes", field);
  }
  const bool has_constants = args.dynamic != Dynamic::yes;
  if (!has_constants) return {};
  if (args.strategy == Strategy::tensor_group) {
    if (args.dynamic != Dynamic::local || args.num_bits != 4 || args.type != NumberType::floating) {
      return fmt::format("{}: strategy tensor_group needs 4-bit floats and dynamic: local", field);
    }
  } else if (args.strategy != Strategy::tensor) {
    return fmt::format("{}: static scales are stored for strategy tensor only, not {}", field,
                       to_string(args.strategy));
  } else if (args.num_bits > 8 || (args.type == NumberType::floating && (args.num_bits != 8 || !args.symmetric))) {
    return fmt::format("{}: static scales are stored for integers of up to 8 bits and symmetric 8-bit floats", field);
  }
  if (constant_absmax(args)) return {};
  return fmt::format(
      "{}: static activation scales need calibration, which this scheme does not get; use a dynamic preset "
      "({}), or give the largest magnitude as observer_kwargs: {{absmax: <number>}}",
      field, dynamic_presets);
}

std::string_view dynamic_alternative(const Scheme& scheme) {
  const QuantArgs& args = *scheme.weights;
  if (args.type == NumberType::integer) return "W8A8, W4A16";
  return args.num_bits == 4 ? "NVFP4A16, MXFP4" : "FP8_DYNAMIC, FP8_BLOCK";
}

}  // namespace

std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear) {
  if (!scheme.weights) return std::string("weights: the scheme quantizes no weights");
  const QuantArgs& args = *scheme.weights;
  if (auto reason = check_strategy(args)) return reason;
  if (auto reason = check_numbers(args)) return reason;
  if (auto reason = check_scale_dtype(args)) return reason;
  if (auto reason = check_format(scheme)) return reason;
  if (auto reason = check_shape(scheme, linear)) return reason;
  const std::string_view way_out = dynamic_alternative(scheme);
  if (scheme.input_activations) {
    if (auto reason = check_activations(*scheme.input_activations, "input_activations", way_out)) return reason;
  }
  if (scheme.output_activations) return check_activations(*scheme.output_activations, "output_activations", way_out);
  return std::nullopt;
}

}  // namespace quant::compressed_tensors
