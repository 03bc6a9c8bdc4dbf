// The storage formats within the layout and which scheme becomes which.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quant/layout.h"

namespace quant::compressed_tensors {

enum class Format {
  pack_quantized,      ///< integers, densely packed in 32-bit words
  pack_quantized_old,  ///< the packing of versions before 0.18, read only
  int_quantized,       ///< integers, one byte each
  float_quantized,     ///< 8-bit floats, for kernels with quantized inputs
  naive_quantized,     ///< one byte each, weights only
  nvfp4,
  mxfp4,
  mxfp8
};

/// "pack-quantized"; the old packing is "pack-quantized-0.17", a name that only this program uses.
std::string_view format_name(Format format);
std::optional<Format> parse_format(std::string_view name);
/// What the weights of a valid scheme become; Scheme::format wins where it names a known format.
Format choose_format(const Scheme& scheme);

bool is_packed_integers(Format format);
bool is_fp4(Format format);

/// True if zero points are packed along rows (the rest stores them as plain int8).
bool packs_zero_points(Format format, const QuantArgs& args);

/// Type in which the layout stores scales of such a weight.
DType stored_scale_dtype(const QuantArgs& args, DType weight_dtype);

/// Slices must start at a multiple of this many rows.
std::uint64_t slice_alignment(Format format, const QuantArgs& args);

/// Why the linear cannot be stored with that scheme, or nothing.
std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear);

}  // namespace quant::compressed_tensors
