// The tensors that stand for one linear, in the order in which they are stored.
#pragma once

#include <string_view>
#include <vector>

#include "layouts/compressed_tensors/formats.h"

namespace quant::compressed_tensors {

enum class Part {
  codes,
  scale,
  zero_point,
  group_index,
  global_scale,
  weight_shape,
  input_scale,
  input_zero_point,
  input_global_scale,
  output_scale,
  output_zero_point,
  output_global_scale
};

/// "weight_packed"; the name of `codes` depends on the format.
std::string_view part_suffix(Part part, Format format);
std::vector<Part> parts_of(const Scheme& scheme);
StoredTensor stored_part(Part part, const Scheme& scheme, const LinearShape& linear);
/// Type of a static scale of activations.
DType activation_scale_dtype(const QuantArgs& args, DType weight_dtype);

/// Bytes of a packed row, and rows x this is the size of the codes.
std::uint64_t code_row_bytes(Format format, const QuantArgs& args, std::uint64_t cols);
/// The shape in which scales are stored: [1], [O, 1], [O, G] or blocks.
Shape scale_shape(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);

}  // namespace quant::compressed_tensors
